"""The examples of stochastic systems run, draw, and hit their numbers; as a user's session is set up."""

import importlib.util
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, folder):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        spec.loader.exec_module(module)
        value = module.main(folder)
    assert (folder / f"{name}.svg").stat().st_size > 10_000
    return value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "most"), [("ising", 0.9, 1.0), ("boltzmann", 0.93, 1.0), ("langevin", 0.0, 3.0)]
)
def test_an_example_hits_its_number(tmp_path, name, least, most):
    assert least <= run(name, tmp_path) <= most
