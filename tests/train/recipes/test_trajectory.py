"""A short run on time series, and its report: the proof, and the motion drawn free and nudged."""

import numpy as np
import pytest

from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.train.config import load_config
from eqprop.train.run import Run, continue_run, new_run


def settings(tmp_path, *more):
    random = np.random.default_rng(0)
    labels = np.arange(24) % 2
    time = np.linspace(0, 4, 20)
    series = np.sin(time[None, :] * (1 + labels[:, None])) + 0.1 * random.normal(size=(24, 20))
    x, y = series[:, :, None].astype(np.float32), labels.astype(np.int32)
    np.savez(tmp_path / "waves.npz", x_train=x[:16], y_train=y[:16], x_test=x[16:], y_test=y[16:])
    own = (
        f"data.name={tmp_path / 'waves.npz'}", "precision=float64", "epochs=1", "batch_size=8", "recipe.pools=2",
        "recipe.units=[4]", "recipe.beta=1e-4",
    )  # fmt: skip
    return load_config("gunpoint", [*own, *more])


@pytest.mark.parametrize("units", [pytest.param("[4]", marks=pytest.mark.slow), "[4, 3]"])
def test_the_report_proves_the_gradient_and_moves(tmp_path, units):
    config = settings(tmp_path, f"recipe.units={units}")
    folder = new_run(config, tmp_path)
    assert continue_run(folder).finished
    proof, motion = config.recipe.report_sections(Run(folder))
    assert "CERTIFIED" in proof.text
    assert proof.headlines[-1].good
    assert "Both share their end" in motion.text
    assert "honest for 20 of 20 samples" in motion.text
    picture = motion.pictures[0].markup
    assert picture.count("<animate ") >= 4 * 2 * min(4, config.recipe.units[-1]) // 2
    assert "#" not in picture  # only colours of the page
    assert "stroke-dasharray" in picture


def test_the_reference_can_be_chosen_and_is_not_held_against_itself(tmp_path):
    config = settings(tmp_path, "recipe.estimator=backpropagation")
    assert isinstance(config.build().propagate, BackpropagationThroughTime)
    damped = settings(tmp_path, "recipe.friction=0.1").build().system
    assert damped.friction_rate() == 0.1
    folder = new_run(config, tmp_path)
    assert continue_run(folder).finished
    assert [section.title for section in config.recipe.report_sections(Run(folder))] == ["The motion, free and nudged"]


def test_settings_are_chosen_on_held_out_training_examples(tmp_path):
    plain = settings(tmp_path).build()
    held = settings(tmp_path, "data.held_out=4").build()
    other = settings(tmp_path, "data.held_out=4", "data.split=1").build()
    assert len(held.train[0]) == 12
    assert len(held.test[0]) == 4
    train = {np.asarray(row).tobytes() for row in plain.train[0]}
    for experiment in (held, other):
        judged = {np.asarray(row).tobytes() for row in experiment.test[0]}
        assert judged <= train
        assert not judged & {np.asarray(row).tobytes() for row in experiment.train[0]}
    assert not np.array_equal(held.test[0], other.test[0])
