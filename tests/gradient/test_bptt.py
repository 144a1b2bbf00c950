"""Backpropagation through time: the true gradient at rest, and what truncation leaves of it."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.gdu import compare_updates
from eqprop.settle.run import Run

TIGHT = ep.FixedPoint(1e-13, 1e-14)


def task(getkey):
    network = ep.LayeredHopfield([4, 8, 6, 3], key=jax.random.key(1), activation=ep.Tanh())
    return network, ep.SquaredError(), jax.random.uniform(getkey(), (3, 4)), jnp.eye(3)


def test_through_all_time_it_is_the_true_gradient(getkey):
    network, cost, x, y = task(getkey)
    found = BackpropagationThroughTime(TIGHT, 300)(network, cost, x, y)
    truth = ep.ImplicitDifferentiation(TIGHT)(network, cost, x, y)
    assert bool(found.settled.all())
    np.testing.assert_allclose(found.value, truth.value, rtol=1e-12)
    for ours, theirs in zip(jax.tree.leaves(found.gradient), jax.tree.leaves(truth.gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("truncation", [1, 10])
def test_truncated_it_is_the_sum_of_as_many_updates_of_equilibrium_propagation(truncation, getkey):
    network, cost, x, y = task(getkey)
    found = BackpropagationThroughTime(TIGHT, 300, truncation)(network, cost, x, y)
    both = compare_updates(network, cost, x, y, steps=truncation)
    for ours, curve in zip(jax.tree.leaves(found.gradient), jax.tree.leaves(both.parameter_updates), strict=True):
        np.testing.assert_allclose(ours, jnp.sum(curve, 0), atol=1e-11)


def test_examples_that_have_not_settled_are_told_and_still_count(getkey):
    network, cost, x, y = task(getkey)
    found = BackpropagationThroughTime(TIGHT, 3)(network, cost, x, y)
    assert not bool(found.settled.any())
    assert jnp.isfinite(found.value)


def test_memory_grows_with_time_and_that_of_equilibrium_propagation_does_not(getkey):
    network, cost, x, y = task(getkey)
    parameters, rest = eqx.partition(network, eqx.is_inexact_array)

    def memory(rule):
        step = jax.jit(lambda p, x, y: rule(eqx.combine(p, rest), cost, x, y).gradient)
        return step.lower(parameters, x, y).compile().memory_analysis().temp_size_in_bytes

    through_time = [memory(BackpropagationThroughTime(ep.FixedPoint(), steps)) for steps in (20, 200)]
    ours = [memory(ep.EquilibriumPropagation(ep.symmetric(0.1), ep.FixedPoint(max_steps=n))) for n in (20, 200)]
    assert through_time[1] > 4 * through_time[0]
    assert ours[1] == ours[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BackpropagationThroughTime(TIGHT, 0), "`steps` of backpropagation .* must be at least 1; got 0"),
        (lambda: BackpropagationThroughTime(TIGHT, 5, 6), "`truncation` .* between 1 and `steps` = 5; got 6"),
        (lambda: BackpropagationThroughTime(ep.AdaptiveGradientFlow(), 5), "must make steps.*got AdaptiveGradientFlow"),
        (lambda: BackpropagationThroughTime(TIGHT), "must be at least 1; got None"),
        (lambda: BackpropagationThroughTime(Run(), 5), "through a `Run` differentiates all of it"),
    ],
)
def test_bad_settings_are_told(build, message):
    with pytest.raises(ValueError, match=message):
        build()
