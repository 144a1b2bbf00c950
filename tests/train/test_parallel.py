"""A batch shared among devices: the estimate is that of the whole batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqprop as ep
from eqprop.train.evaluate import evaluate
from eqprop.train.experiment import Experiment, wrong_class
from eqprop.train.parallel import estimate_shared

COST = ep.SquaredError()


def task(count):
    keys = jax.random.split(jax.random.key(5), 2)
    return jax.random.uniform(keys[0], (count, 6)), jnp.eye(3)[jnp.arange(count) % 3]


def network():
    return ep.LayeredHopfield([6, 8, 3], key=jax.random.key(1))


def experiment(devices):
    rule = ep.EquilibriumPropagation(ep.symmetric(0.05), ep.BlockDescent(1e-10, 1e-12), chunk=2)
    return Experiment(network(), COST, rule, optax.sgd(0.1), task(24), task(9), wrong_class, devices=devices)


def close(one, other, rtol=1e-12):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)


def test_examples_that_do_not_settle_are_left_out_whichever_device_they_are_on():
    inputs, targets = task(6)
    # Two sweeps are enough where the inputs are nothing, and too few elsewhere: the first device settles one example.
    inputs = inputs.at[jnp.array([1, 3, 4])].set(0.0)
    free, nudged = ep.BlockDescent(1e-10, 1e-12, max_steps=2), ep.BlockDescent(1e-10)
    rule = ep.EquilibriumPropagation(ep.symmetric(0.05), free, nudged_solver=nudged)
    whole = rule(network(), COST, inputs, targets)
    assert whole.settled.tolist() == [False, True, False, True, True, False]
    both = eqx.filter_jit(estimate_shared)(rule, 2, network(), COST, inputs, targets, None)
    close(both, whole)


def test_backpropagation_through_time_counts_every_example_on_each_device():
    rule = ep.BackpropagationThroughTime(ep.FixedPoint(1e-12, 1e-12), 3)
    whole = rule(network(), COST, *task(6))
    assert not whole.settled.any()
    close(estimate_shared(rule, 2, network(), COST, *task(6), None), whole)


def test_a_batch_that_the_devices_do_not_divide_is_settled_whole():
    rule = experiment(2).propagate
    close(estimate_shared(rule, 2, network(), COST, *task(5), None), rule(network(), COST, *task(5)), rtol=0)


def test_sampled_phases_have_keys_of_their_own_on_each_device_and_errors_add_in_squares():
    system = ep.Ising(2, 3, [(0, 2), (1, 3), (2, 4), (3, 4)], [4], key=jax.random.key(3))
    rule = ep.EquilibriumPropagation(ep.symmetric(0.3), ep.Gibbs(1.0, chains=4, burn_in=5, samples=20))
    inputs, targets = jnp.array([[1.0, -1.0], [1.0, -1.0]]), jnp.array([[1.0], [1.0]])
    key = jax.random.key(8)
    both = estimate_shared(rule, 2, system, COST, inputs, targets, key)
    parts = [rule(system, COST, inputs[i : i + 1], targets[i : i + 1], key=jax.random.fold_in(key, i)) for i in (0, 1)]
    assert not np.allclose(parts[0].outputs, parts[1].outputs)
    close(both.gradient, jax.tree.map(lambda a, b: (a + b) / 2, *(p.gradient for p in parts)))
    close(both.standard_error, jax.tree.map(lambda a, b: jnp.sqrt(a**2 + b**2) / 2, *(p.standard_error for p in parts)))


@pytest.mark.parametrize("devices", [2, 3])
def test_training_on_more_devices_is_training_on_one_and_leaves_the_system_on_the_first(devices):
    # Three do not divide a batch of four: two of them share it.
    fits = [ep.fit(experiment(n), epochs=2, batch_size=4, key=jax.random.key(2)) for n in (1, devices)]
    close(fits[1].system, fits[0].system, rtol=1e-9)
    assert fits[1].metrics[-1]["test_error"] == fits[0].metrics[-1]["test_error"]
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(fits[1].system) if eqx.is_array(leaf))
    judged = [evaluate(experiment(n), fits[0].system, task(8)) for n in (1, devices)]
    np.testing.assert_allclose(judged[1], judged[0], rtol=1e-12)


@pytest.mark.parametrize("devices", [0, -1])
def test_a_number_of_devices_below_one_is_refused(devices):
    with pytest.raises(ValueError, match=rf"`devices` must be at least 1.*got {devices}"):
        experiment(devices)
