import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import eqprop as ep
from eqprop.train.config import ConfigError
from eqprop.train.run import Run, continue_run, new_run

TIMES = ("seconds", "evaluation_seconds")


def timeless(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def same(folder, other):
    assert (folder / "checkpoint.safetensors").read_bytes() == (other / "checkpoint.safetensors").read_bytes()
    assert timeless(folder) == timeless(other)


@pytest.fixture(scope="module")
def whole(tiny, tiny_experiment, tmp_path_factory):
    """A run to its end, and copies of its folder as it was at each moment of it."""
    out = tmp_path_factory.mktemp("runs")
    folder = new_run(tiny, out)
    copies = [out / "copy-before"]
    shutil.copytree(folder, copies[0])

    def copy(moment):
        copies.append(out / f"copy-{moment.epoch}-{moment.step}")
        shutil.copytree(folder, copies[-1])

    outcome = continue_run(folder, experiment=tiny_experiment, watch=copy)
    assert outcome.finished
    return folder, copies


def test_a_run_left_at_any_moment_continues_to_the_same_bits(whole, tiny_experiment):
    folder, copies = whole
    assert len(copies) >= 5
    for copy in copies:
        continue_run(copy, experiment=tiny_experiment)
        same(folder, copy)


def test_what_was_half_written_at_the_end_is_forgotten(whole, tiny_experiment, tmp_path):
    folder, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with open(copy / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "train_cost": 1}\n{"epoch": 4, "tr')
    (copy / ".checkpoint.safetensors.99.tmp").write_bytes(b"half")
    continue_run(copy, experiment=tiny_experiment)
    same(folder, copy)
    assert not list(copy.glob(".*"))


def test_asked_to_stop_it_saves_and_can_go_on(whole, tiny, tiny_experiment, tmp_path):
    folder = new_run(tiny, tmp_path)
    moments = []
    outcome = continue_run(folder, experiment=tiny_experiment, watch=moments.append, stop=lambda: True)
    assert not outcome.finished
    assert len(moments) == 1
    assert continue_run(folder, experiment=tiny_experiment).finished
    same(folder, whole[0])


def test_killed_processes_continue_to_the_same_bits(whole, tmp_path):
    """SIGKILL, three times, at moments that the process does not choose."""
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(whole[0] / "config.toml", folder)
    for delay in (0.0, 0.02, 0.15):
        process = _resume(folder)
        before = (folder / "checkpoint.safetensors").exists() and (folder / "checkpoint.safetensors").read_bytes()
        _wait(lambda before=before: _changed(folder / "checkpoint.safetensors", before), process)
        time.sleep(delay)
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
    process = _resume(folder)
    assert process.wait(timeout=120) == 0
    same(whole[0], folder)


def _resume(folder):
    source = Path(ep.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(source), "XDG_CACHE_HOME": str(folder.parent / "cache")}
    command = [sys.executable, "-m", "eqprop.cli", "train", "--resume", str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _changed(path, before):
    return path.exists() and path.read_bytes() != before


def _wait(happened, process):
    deadline = time.monotonic() + 120
    while not happened() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_loaded_run_has_system_configuration_metrics_and_predictions(whole, tiny):
    run = ep.load(whole[0])
    assert run.config.recipe == tiny.recipe
    assert run.config.versions["jax"] == jax.__version__
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    stored = safetensors.numpy.load_file(whole[0] / "checkpoint.safetensors")
    np.testing.assert_array_equal(run.system.weights[0], stored["weights.0"])
    test = run.experiment().test
    assert test is not None
    inputs, targets = test
    scores = run.predict(inputs.reshape(-1, 8, 8))
    wrong = np.mean(np.asarray(np.argmax(scores, 1) != np.argmax(targets, 1)))
    assert wrong == run.metrics[-1]["test_error"]
    bytes_of = np.round(np.asarray(inputs) * 16).astype(np.uint8)
    np.testing.assert_allclose(run.predict(bytes_of), run.predict(bytes_of / 255))


def test_predict_refuses_what_does_not_fit(whole):
    run = Run(whole[0])
    with pytest.raises(ValueError, match="each example must have 64 numbers"):
        run.predict(np.zeros((2, 63)))
    with pytest.raises(ValueError, match="NaN or infinity, first in example 1"):
        run.predict(np.array([np.zeros(64), np.full(64, np.nan)]))


def test_a_folder_that_is_no_run_is_called_that(whole):
    with pytest.raises(ConfigError, match=r"is no run folder: it holds no config.toml. There are: .*digits-"):
        ep.load(whole[0].parent / "nothing")


def test_another_precision_is_refused(tiny, tiny_experiment, tmp_path):
    folder = new_run(tiny.model_copy(update={"precision": "float32"}), tmp_path)
    with pytest.raises(ConfigError, match=r"asks for `precision = \"float32\"` but JAX computes in float64"):
        continue_run(folder, experiment=tiny_experiment)


def test_runs_of_the_same_second_get_folders_of_their_own(tiny, tmp_path):
    assert len({new_run(tiny, tmp_path) for _ in range(3)}) == 3


def test_weights_load_in_the_other_precision(whole):
    with jax.enable_x64(False):
        assert Run(whole[0]).system.weights[0].dtype == jnp.float32
