"""`eqprop gdu` on a small network of a user's own file."""

import pytest

from eqprop.cli.app import main

TASK = """
import jax, jax.numpy as jnp, eqprop as ep
def task():
    network = ep.LayeredHopfield([3, 5, 2], key=jax.random.key(0), activation=ep.Tanh())
    return network, ep.SquaredError(), jnp.arange(12.0).reshape(4, 3) / 12, jnp.eye(2)[jnp.arange(4) % 2]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(TASK, encoding="utf-8")
    return path


def test_the_comparison_is_printed_and_plotted(file, capsys, tmp_path):
    code = main(["gdu", f"{file}:task", "--steps", "4", "--out", str(tmp_path / "curves.svg")])
    printed = capsys.readouterr().out
    assert code == 0
    assert "in the limit" in printed
    assert "right: the updates are the gradients" in printed
    assert (tmp_path / "curves.svg").stat().st_size > 1000


def test_another_kind_of_plot_is_refused(file, capsys):
    assert main(["gdu", f"{file}:task", "--out", "curves.txt"]) == 2
    assert ".png, .svg or .pdf" in capsys.readouterr().err
