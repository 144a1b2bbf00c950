"""Test errors of the literature, equilibrium propagation beside backpropagation through time; by the presets."""

import jax
import pytest

from eqprop.train.config import load_config
from eqprop.train.data import load
from eqprop.train.fit import TrainingError, fit

THROUGH_TIME = ["recipe.through_time.steps=15", "max_unsettled=1"]


def error_after(name, overrides, epochs):
    """Test error after training as `eqprop train` does, in float32."""
    needed = load_config(name, overrides).data
    assert needed is not None
    try:
        load(needed.name)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        config = load_config(name, [*overrides, f"epochs={epochs}"])
        fitted = fit(
            config.build(),
            epochs=epochs,
            batch_size=config.batch_size,
            key=config.training_key(),
            max_unsettled=config.max_unsettled,
        )
    return fitted.metrics[-1]["test_error"]


@pytest.mark.slow
def test_one_hidden_layer_learns_mnist_as_well_by_both_rules():
    ours, theirs = (error_after("mnist", ["recipe.hidden=[512]", *rule], 10) for rule in ([], THROUGH_TIME))
    assert 0.015 <= ours <= 0.023
    assert abs(ours - theirs) <= 0.004


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["[512,512]", "[512,512,512]"])
def test_deeper_networks_learn_mnist_as_well_by_both_rules(hidden):
    # The thesis trains these for 50 and 100 epochs; here a part of the data shows that the rules go the same way.
    common = [f"recipe.hidden={hidden}", "data.train_examples=20000", "optimiser.learning_rate=0.1"]
    ours, theirs = (error_after("mnist", [*common, *rule], 3) for rule in ([], THROUGH_TIME))
    assert ours <= 0.08
    assert abs(ours - theirs) <= 0.005


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist-conv", "fashion-mnist-conv"])
def test_convolutional_networks_learn_as_well_by_both_rules(name):
    common = ["data.train_examples=20000"]
    ours, theirs = (error_after(name, [*common, *rule], 1) for rule in ([], THROUGH_TIME))
    assert ours <= (0.05 if name == "mnist-conv" else 0.25)
    assert abs(ours - theirs) <= 0.005


@pytest.mark.slow
def test_a_deep_resistive_network_learns_mnist_as_published():
    # Scellier 2024: 3.46 %, by backpropagation 3.30 %.
    assert 0.029 <= error_after("drn-xs", [], 10) <= 0.038


@pytest.mark.slow
def test_a_softmax_readout_is_no_worse_than_linear_outputs():
    common = ["data.train_examples=20000"]
    softmax, linear = (error_after("mnist-conv", [*common, f"recipe.output={o}"], 1) for o in ("softmax", "linear"))
    assert softmax <= linear


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() == "cpu", reason="takes days on a processor")
def test_one_sided_nudging_fails_on_cifar10_where_symmetric_nudging_learns():
    # Needs CIFAR-10 and a graphics card: the literature's 86.6 % against 12.5 % after 120 epochs; here the first 5.
    common = ["recipe.estimator.beta=0.5", "recipe.output=linear"]
    symmetric = error_after("cifar10", common, 5)
    try:
        one_sided = error_after("cifar10", [*common, "recipe.estimator.stencil=one_sided"], 5)
    except TrainingError:
        return
    assert one_sided >= max(0.4, symmetric + 0.1)
