import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eqprop
from eqprop.cli import main
from eqprop.cli.command import command
from eqprop.train.run import continue_run, new_run

SYSTEM = """
import jax, jax.numpy as jnp, eqprop as ep

class Springs(ep.System):
    stiffness: jax.Array
    def energy(self, state, inputs):
        return jnp.sum(self.stiffness * state**2) - jnp.sum(inputs * state)
    def initial_state(self, inputs):
        return jnp.zeros(3)

class Upside(Springs):
    def energy(self, state, inputs):
        return -jnp.sum(self.stiffness * (state**4 + state))

def good():
    x = jnp.ones((2, 3))
    return Springs(jnp.ones(3)), ep.SquaredError(), x, x

def bad():
    return (Upside(jnp.ones(3)), *good()[1:])

def strange():
    return 3, 4
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SYSTEM)
    return path


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_help_answers_without_importing_jax():
    code = (
        "import sys; from eqprop.cli import main; code = main(['--help']); "
        "sys.exit(code or int('jax' in sys.modules) * 3)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(eqprop.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "eqprop train digits" in result.stdout.replace("\n", " ").replace("  ", " ")


def run_in_float64(out, *more):
    settings = (
        "epochs=2",
        "precision=float64",
        "recipe.hidden=[8]",
        "data.train_examples=100",
        "data.test_examples=40",
    )
    flags = [word for setting in settings for word in ("--set", setting)]
    return main(["train", "digits", "--out", str(out), *flags, *more])


def test_train_ends_with_figure_folder_and_next_command(tmp_path, capsys):
    assert run_in_float64(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = next(tmp_path.iterdir())
    assert lines[0].startswith("epoch 1/2   train error ")
    accuracy = lines[-3].removeprefix("test accuracy ").removesuffix(" %")
    assert accuracy == f"{float(accuracy):.1f}"
    assert lines[-2:] == [f"run folder {folder}", f"next: eqprop report {folder}"]


def test_several_seeds_give_mean_and_spread(tmp_path, capsys):
    assert run_in_float64(tmp_path, "--seeds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(list(tmp_path.iterdir())) == 2
    spread, mean = lines[-5], float(lines[-4].split()[2])
    assert spread.startswith("2 seeds: ")
    values = [float(value) for value in spread.removeprefix("2 seeds: ").split(";")[0].split(",")]
    assert abs(mean - np.mean(values)) < 0.06
    assert f"standard deviation {np.std(values, ddof=1):.2f}" in spread


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train"], 2, "--resume RUN"),
        (["train", "digts"], 2, "Did you mean `digits`?"),
        (["train", "digits", "--set", "optimiser.rate=1"], 2, "unknown key `optimiser.rate`. Did you mean `rates`?"),
        (["train", "--resume", "nowhere"], 2, "nowhere is no run folder"),
        (["predict", "nowhere", "x.npy"], 2, "nowhere is no run folder"),
        (["check", "nowhere.py:f"], 1, "There is no file nowhere.py"),
        (["check", "nowhere.py"], 1, "must read FILE.py:NAME"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_one_message_and_a_code(words, code, message, capsys):
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(capsys):
    assert main(["--debug", "check", "nowhere.py:f"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_check_certifies_or_refuses_by_exit_code(source, capsys):
    assert main(["check", f"{source}:good"]) == 0
    shown = capsys.readouterr().out
    assert "reciprocal" in shown
    assert "CERTIFIED" in shown
    assert "take: solver" in shown
    assert main(["check", f"{source}:bad"]) == 1
    assert "NOT right" in capsys.readouterr().out


MOVING = """
import equinox as eqx, jax, jax.numpy as jnp
from eqprop.motion import Pooled
from eqprop.substrates.trajectory import Lagrangian, PendulumChain

class Swing(Lagrangian):
    length: jax.Array
    dimension: int = eqx.field(static=True, default=1)
    def __call__(self, position, velocity, time, drive):
        return 0.5 * jnp.sum((self.length * velocity) ** 2) + self.length * jnp.sum(jnp.cos(position))

swing = Swing(jnp.array(1.2))
pendulum = PendulumChain(jnp.array([1.0]), jnp.array([1.0]), samples=41, window=Pooled(2))
coarse = PendulumChain(jnp.array([0.002]), jnp.array([0.1]), samples=41, window=Pooled(2), step=0.03)

class Damped(PendulumChain):
    reversible = False

damped = Damped(jnp.array([1.0]), jnp.array([1.0]), samples=41, window=Pooled(2))
"""


def test_check_of_a_hamiltonian_and_of_what_is_no_motion(tmp_path, capsys):
    source = tmp_path / "moving.py"
    source.write_text(MOVING)
    assert main(["check", f"{source}:pendulum"]) == 0
    shown = capsys.readouterr().out
    lines = ("order", "energy drift", "retrace error", "longest honest length", "CERTIFIED")
    assert all(line in shown for line in lines), shown
    assert main(["check", f"{source}:coarse"]) == 1
    assert "lower `step`" in capsys.readouterr().out
    assert main(["check", f"{source}:damped"]) == 1
    assert "declares that it is not reversible" in capsys.readouterr().err
    assert main(["check", f"{source}:swing"]) == 1
    assert "point at `Path(lagrangian, FixedEnds(...)" in capsys.readouterr().err


def test_check_says_what_to_point_at(source, capsys):
    assert main(["check", f"{source}:strange"]) == 1
    assert "must return (system, cost, inputs, targets)" in capsys.readouterr().err
    assert main(["check", f"{source}:Springs"]) == 1
    assert "point at a System instance" in capsys.readouterr().err
    assert main(["check", f"{source}:missing"]) == 1
    assert "defines no `missing`" in capsys.readouterr().err


def test_doctor_names_versions_data_and_helpers(capsys):
    import jax

    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in (jax.__version__, "digits", "fashion-mnist", "ngspice", "chromium"):
        assert word in shown


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_predict_reads_files_and_prints_labels_and_scores(kind, tmp_path, capsys):
    from eqprop.train.config import load_config

    settings = [
        "epochs=1",
        "precision=float64",
        "recipe.hidden=[8]",
        "data.train_examples=100",
        "data.test_examples=40",
    ]
    folder = new_run(load_config("digits", settings), tmp_path)
    run = continue_run(folder).run
    inputs = np.asarray(run.experiment().test[0][:3])
    file = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(file, inputs)
    elif kind == "npz":
        np.savez(file, inputs=inputs)
    else:
        np.savetxt(file, inputs, delimiter=",", header=",".join(["p"] * 64), comments="")
    capsys.readouterr()
    assert main(["predict", str(folder), str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = run.predict(inputs)
    assert lines[0].startswith("label,score_0,")
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(np.argmax(scores, 1))
    np.testing.assert_allclose([float(v) for v in lines[1].split(",")[1:]], scores[0], rtol=1e-5, atol=1e-6)


def test_line_to_type_next_is_one_that_the_shell_finds(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "eqprop"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(program), "train", "digits"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command("report", "runs/a b") == "bin/eqprop report 'runs/a b'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command("report", "runs/a") == "eqprop report runs/a"
