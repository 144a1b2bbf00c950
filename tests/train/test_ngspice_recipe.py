"""A12: circuits that live in ngspice learn, and end where our own solver ends."""

import time

import numpy as np
import pytest

from eqprop.substrates.circuit.errors import WeakNudge
from eqprop.train.config import load_config
from eqprop.train.data import load, stratified_split
from eqprop.train.evaluate import outputs_of
from eqprop.train.fit import fit
from eqprop.train.run import continue_run, new_run


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
    metrics = _train("xor-ngspice", epochs=50)
    assert metrics[0]["test_error"] >= 0.25
    assert metrics[-1]["test_error"] == 0.0
    assert metrics[-1]["test_cost"] < metrics[0]["test_cost"] / 2.5


@pytest.mark.slow
def test_the_typed_command_learns_xor_to_the_end():
    metrics = _train("xor-ngspice")
    assert [row["test_error"] for row in metrics[-100:]] == [0.0] * 100
    assert metrics[-1]["test_cost"] < metrics[0]["test_cost"] / 50


def test_the_loss_is_that_of_the_same_run_with_our_own_solver():
    few = {"epochs": 1, "data__train_examples": 40, "data__test_examples": 10}
    here, there = (_train("iris-ngspice", recipe__simulator=name, **few)[-1] for name in ("own", "library"))
    assert here["test_cost"] == pytest.approx(there["test_cost"], rel=1e-8)
    assert here["train_cost"] == pytest.approx(there["train_cost"], rel=1e-8)


@pytest.mark.slow
def test_iris_is_learnt_in_ngspice_as_with_our_own_solver():
    began = time.monotonic()
    there = _train("iris-ngspice")[-1]
    assert time.monotonic() - began < 60
    assert there["test_error"] <= 0.07
    here = _train("iris-ngspice", recipe__simulator="own")[-1]
    assert here["test_cost"] == pytest.approx(there["test_cost"], rel=1e-8)


def test_settings_are_chosen_on_training_flowers_alone():
    own = ["recipe.simulator=own"]
    train, test = (load_config("iris-ngspice", own).build().train, load_config("iris-ngspice", own).build().test)
    judged = load_config("iris-ngspice", [*own, "data.held_out=30"]).build()
    assert (len(train[0]), len(test[0]), len(judged.train[0]), len(judged.test[0])) == (120, 30, 90, 30)

    def flowers(experiment, part):
        # Each run brings its own training flowers to mean 0: undo it, to know them again.
        raw = load("iris").train_inputs.astype(float)
        kept, _ = stratified_split(load("iris").train_targets, 30)
        rows = raw[kept]
        return {tuple(np.round(x * rows.std(0) + rows.mean(0), 5)) for x in np.asarray(getattr(experiment, part)[0])}

    known = {tuple(np.round(x, 5)) for x in load("iris").train_inputs.astype(float)}
    assert flowers(judged, "test") <= known
    assert flowers(judged, "train") <= known


def test_any_data_set_is_brought_to_the_circuit(tmp_path):
    random = np.random.default_rng(0)
    x = 5 + 3 * random.normal(size=(12, 2))
    path = tmp_path / "own.npz"
    np.savez(
        path,
        x_train=np.c_[x, np.ones(12)],
        y_train=np.arange(12) % 2,
        x_test=np.c_[x, np.ones(12)][:4],
        y_test=np.arange(4) % 2,
    )
    experiment = load_config("iris-ngspice", [f"data.name={path}", "recipe.simulator=own"]).build()
    inputs, targets = experiment.train
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-7)
    np.testing.assert_allclose(inputs.std(0), [1, 1, 0], atol=1e-7)
    np.testing.assert_array_equal(targets[:2], [[0.3, 0.0], [0.0, 0.3]])


def test_predictions_take_flowers_as_they_are_measured(tmp_path):
    config = load_config("iris-ngspice", ["epochs=1", "recipe.simulator=own"])
    run = continue_run(new_run(config, tmp_path)).run
    experiment = run.experiment()
    prepared, _ = outputs_of(experiment.system, experiment.propagate, experiment.test[0])
    np.testing.assert_allclose(run.predict(load("iris").test_inputs), prepared, atol=1e-12)


def test_a_nudge_that_drowns_in_read_noise_is_said_before_training():
    noisy = ["recipe.simulator=own", "recipe.read_noise=1e-3"]
    with pytest.warns(WeakNudge, match=r"beta = 1e-06 S moves the outputs by .* S costs least"):
        load_config("xor-ngspice", noisy).build()
    drn = ["data.name=digits", "recipe.hidden=[4]", "recipe.devices.read_noise=0.1", "recipe.estimator.beta=0.001"]
    with pytest.warns(WeakNudge, match=r"beta = 0.001 S moves the outputs by .* against 0.1 V"):
        load_config("drn-xs", drn).build()
    # At the strength that the warning suggests, little is lost: no warning.
    load_config("xor-ngspice", ["recipe.simulator=own", "recipe.read_noise=1e-9", "recipe.beta=1e-5"]).build()


def test_settings_that_contradict_are_refused():
    with pytest.raises(ValueError, match=r"read_noise. needs"):
        load_config("iris-ngspice", ["recipe.read_noise=0.001"]).build()
