"""Every example script runs as a user's session is set up, draws its picture and reaches its figure."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def within(least, most):
    """A judgement of one number."""
    return lambda value: least <= value <= most


def few_shot(errors):
    before, after = errors
    return after < 0.7 * before


def one_way(errors):
    biased, antisymmetric, doubled = errors
    return biased > 0.5 and antisymmetric < 0.01 and doubled < 0.02


def xor_circuit(voltages):
    outputs, targets = voltages
    return (np.sign(outputs) == np.sign(targets)).all()


def agnostic(errors):
    worst, read_off = errors
    return worst < 0.02 and read_off < 0.01


PICTURES = {
    "agnostic": agnostic,  # largest error of an answer; relative error of the gradient read off
    "boltzmann": within(0.93, 1.0),  # test accuracy after four epochs
    "few_shot": few_shot,
    "hyper_ridge": within(0.999, 1.01),  # validation error over the best of the grid
    "ising": within(0.9, 1.0),  # mean output of the worst pattern
    "langevin": within(0.0, 3.0),  # standard errors
    "one_way": one_way,
    "oscillators": within(0.0, 0.3),  # largest error of an answer [rad]
    "pendulum": lambda lengths: abs(lengths[-1] - 0.8) < 0.01,  # [m]
    "quantum": within(0.85, 1.0),  # four spins of matter, at all distances from the transition
    "xor_circuit": xor_circuit,
}

SLOW = {"boltzmann"}
"""What they do is tested elsewhere, on less."""


@pytest.fixture
def as_a_user():
    """JAX as it is before the tests set it up; a script may switch to double precision itself."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        jax.config.update("jax_enable_x64", False)
        yield
    jax.config.update("jax_enable_x64", True)


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PICTURES)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PICTURES]
)
def test_an_example_draws_its_picture_and_reaches_its_figure(name, tmp_path):
    found = load(name).main(tmp_path)
    assert PICTURES[name](found), found
    assert 10_000 < (tmp_path / f"{name}.svg").stat().st_size < 120_000


def test_every_picture_of_the_gallery_is_shown_and_drawn_by_an_example():
    gallery = EXAMPLES.parent / "docs" / "gallery"
    page = (gallery / "index.md").read_text()
    assert {path.stem for path in gallery.glob("*.svg")} == set(PICTURES)
    for name in PICTURES:
        assert f"({name}.svg)" in page
        assert f"`examples/{name}.py`" in page
