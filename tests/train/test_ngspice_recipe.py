"""A12: circuits that live in ngspice learn, and end where our own solver ends."""

import pytest

from eqprop.train.config import load_config
from eqprop.train.fit import fit


def _train(preset, **changes):
    overrides = [f"{name.replace('__', '.')}={value!r}".replace("'", '"') for name, value in changes.items()]
    config = load_config(preset, overrides)
    experiment = config.build()
    try:
        fitted = fit(experiment, epochs=config.epochs, batch_size=config.batch_size, key=config.training_key())
    finally:
        experiment.solver.bench.close()
    return fitted.metrics


def test_xor_is_learnt_in_ngspice():
    metrics = _train("xor-ngspice", epochs=100)
    assert metrics[0]["test_error"] >= 0.25
    assert metrics[-1]["test_error"] == 0.0
    assert metrics[-1]["test_cost"] < metrics[0]["test_cost"] / 4


def test_the_loss_is_that_of_the_same_run_with_our_own_solver():
    here, there = (_train("iris-ngspice", epochs=2, recipe__simulator=name)[-1] for name in ("own", "library"))
    assert here["test_cost"] == pytest.approx(there["test_cost"], rel=1e-8)
    assert here["train_cost"] == pytest.approx(there["train_cost"], rel=1e-8)


@pytest.mark.slow
def test_iris_is_learnt_in_ngspice_as_with_our_own_solver():
    there = _train("iris-ngspice")[-1]
    assert there["test_error"] <= 0.07
    here = _train("iris-ngspice", recipe__simulator="own")[-1]
    assert here["test_cost"] == pytest.approx(there["test_cost"], rel=1e-8)


def test_settings_that_contradict_are_refused():
    with pytest.raises(ValueError, match=r"leave `.data.` out"):
        load_config("iris-ngspice", ["data.name=digits"]).build()
    with pytest.raises(ValueError, match=r"read_noise. needs"):
        load_config("iris-ngspice", ["recipe.read_noise=0.001"]).build()
