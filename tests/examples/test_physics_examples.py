"""The example scripts run as a user runs them, draw their picture and reach their figure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "Agg"}
    script = ROOT / "examples" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / f"{name}.svg").stat().st_size > 1000
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[-+]\d+)?", done.stdout)]


def test_hyper_ridge_reaches_the_grids_optimum_within_a_percent(tmp_path):
    (ratio,) = run("hyper_ridge", tmp_path)
    assert ratio < 1.01


@pytest.mark.slow
def test_oscillators_learn_xor(tmp_path):
    (worst,) = run("oscillators", tmp_path)
    assert worst < 0.3


@pytest.mark.slow
def test_a_sensor_spin_recognises_the_phase(tmp_path):
    (percent,) = run("quantum", tmp_path)
    assert percent >= 95


@pytest.mark.slow
def test_few_shot_regression_profits_from_a_learned_start(tmp_path):
    *_, before, after = run("few_shot", tmp_path)
    assert after < 0.7 * before


@pytest.mark.slow
def test_one_way_couplings_need_more_than_the_vector_field_rule(tmp_path):
    biased, antisymmetric, doubled = run("one_way", tmp_path)
    assert biased > 0.5
    assert antisymmetric < 0.01
    assert doubled < 0.02
