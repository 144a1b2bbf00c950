"""Recipes of spins: the presets build, and learn."""

import jax
import pytest

from eqprop.train.config import load_config
from eqprop.train.fit import fit


def errors(name, overrides, seed=0):
    config = load_config(name, overrides)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        experiment = load_config(name, overrides).build(seed)
        fitted = fit(experiment, epochs=config.epochs, batch_size=config.batch_size, key=jax.random.key(seed))
    return [m["test_error"] for m in fitted.metrics], fitted.metrics


def test_a_few_steps_of_digits_boltzmann_learn():
    found, metrics = errors("digits-boltzmann", ["epochs=2", "data.train_examples=500", "data.test_examples=100"])
    assert found[-1] < 0.3
    assert 0 <= metrics[-1]["dead"] <= 1
    assert metrics[-1]["unsettled"] == 0


@pytest.mark.slow
def test_digits_boltzmann_reaches_94_percent():
    found, _ = errors("digits-boltzmann", [])
    assert found[-1] <= 0.06


@pytest.mark.slow
def test_xor_ising_is_learned_by_6_of_6_seeds():
    assert [errors("xor-ising", [], seed)[0][-1] for seed in range(6)] == [0.0] * 6
