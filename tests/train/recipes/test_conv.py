"""The convolutional recipe: from settings to a network that learns, by both rules."""

import jax
import numpy as np
import pytest

from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.train.augment import Augmented
from eqprop.train.config import Config, load_config, to_toml
from eqprop.train.fit import fit

LAYERS = [{"features": 4, "size": 3}, {"features": 6, "size": 2, "pooling": "none"}]


def configured(tmp_path, recipe=(), **options):
    """Bars at random places, upright or lying: a task that a small network learns."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 240)
    images = 0.2 * draw.random((240, 8, 8))
    for image, label, place in zip(images, labels, draw.integers(0, 8, 240), strict=True):
        (image if label else image.T)[place] += 0.8
    path = tmp_path / "bars.npz"
    np.savez(path, x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=labels[200:])
    recipe = {"kind": "conv_hopfield", "layers": LAYERS, **dict(recipe)}
    # The coupling between hidden layers learns slowly: at the rate of the others it soon holds units at their bounds,
    # where by every rule the gradient is zero, and what was learned is lost.
    adam = {"kind": "adam", "learning_rate": 0.005, "rates": {"connections.1.*": 0.001}}
    return Config.model_validate({"data": {"name": str(path)}, "recipe": recipe, "optimiser": adam, **options})


THROUGH_TIME = {"through_time": {"steps": 30}, "estimator": {"solver": {"kind": "fixed_point"}}}


@pytest.mark.parametrize(
    "recipe",
    [{}, pytest.param({"output": "linear"}, marks=pytest.mark.slow), THROUGH_TIME],
    ids=["softmax", "linear", "through time"],
)
def test_a_network_learns_and_keeps_what_it_learned(recipe, tmp_path):
    # Settling is slow for a while, when the feedback is strongest; examples of which 30 steps make no rest still count
    # in backpropagation through time.
    experiment = configured(tmp_path, recipe).build()
    found = fit(experiment, epochs=14, batch_size=20, key=jax.random.key(0), max_unsettled=1.0)
    assert [epoch["test_error"] for epoch in found.metrics[-3:]] == pytest.approx([0, 0, 0], abs=0.05)


def test_rules_are_built_as_configured(tmp_path):
    through_time = {"through_time": {"steps": 40, "truncation": 10}, "estimator": {"solver": {"kind": "fixed_point"}}}
    rule = configured(tmp_path, through_time).build().propagate
    assert isinstance(rule, BackpropagationThroughTime)
    assert (rule.steps, rule.truncation) == (40, 10)
    augmented = configured(tmp_path, {"shift": 1, "mirror": True}).build().propagate
    assert isinstance(augmented, Augmented)


def test_a_configuration_survives_its_file(tmp_path):
    config = configured(tmp_path, {"skips": [{"source": 0, "target": 2, "features": 6, "size": 5, "pooling": "max"}]})
    (tmp_path / "copy.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "copy.toml") == config


@pytest.mark.parametrize("name", ["mnist-conv", "fashion-mnist-conv", "cifar10"])
def test_presets_are_valid(name):
    config = load_config(name)
    assert config.recipe.kind == "conv_hopfield"


@pytest.mark.slow
def test_the_preset_of_cifar_trains_on_files_made_here(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        labels, pixels = draw.integers(0, 10, (4, 1)), draw.integers(0, 256, (4, 3072))
        (tmp_path / f"{name}.bin").write_bytes(np.concatenate([labels, pixels], axis=1).astype(np.uint8).tobytes())
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    layers = ", ".join(f"{{features = 4, size = 3, padding = {padding}}}" for padding in (1, 1, 1, 0))
    config = load_config("cifar10", [f"recipe.layers=[{layers}]", "batch_size=4"])
    experiment = config.build()
    assert isinstance(experiment.propagate, Augmented)
    found = fit(experiment, epochs=2, batch_size=4, key=jax.random.key(0))
    first, second = (epoch["train_cost"] for epoch in found.metrics)
    assert second < first


def test_data_that_are_no_images_are_refused(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(
        path, x_train=np.ones((4, 5)), y_train=np.array([0, 1, 0, 1]), x_test=np.ones((1, 5)), y_test=np.array([0])
    )
    config = configured(tmp_path, data={"name": str(path)})
    with pytest.raises(ValueError, match=r"examples have shape \(5,\); a convolutional network needs images"):
        config.build()


def test_kernels_larger_than_the_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`layers\[0\]` does not fit the \(8, 8, 1\) it reads"):
        configured(tmp_path, {"layers": [{"features": 2, "size": 9}]}).build()
