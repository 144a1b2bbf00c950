"""Convolutional Hopfield networks: exact block minimisers, rest states, and the true gradient."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.gradient.reference import ImplicitDifferentiation
from eqprop.settle.descent import synchronous_change
from eqprop.substrates.conv_hopfield import Conv, ConvHopfield
from eqprop.substrates.convolution import MaxPooling, MeanPooling, Pooling

TIGHT = ep.BlockDescent(rtol=1e-13, atol=1e-14, max_steps=2_000)


def network(pooling: Pooling | None = None, **options):
    layers = [Conv(3, 3, pooling=pooling), Conv(4, (2, 3), stride=(1, 2), padding=1)]
    return ConvHopfield((6, 6, 2), layers, 3, key=jax.random.key(0), **options)


def batch(getkey, size=3):
    return jax.random.uniform(getkey(), (size, 6, 6, 2)), jnp.arange(size) % 3


def flat(tree):
    return jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


def relative(estimate, reference):
    return float(jnp.linalg.norm(flat(estimate) - flat(reference)) / jnp.linalg.norm(flat(reference)))


@pytest.mark.parametrize("pooling", [MaxPooling(2), MeanPooling(2)])
def test_drives_come_of_one_scalar(pooling, getkey):
    # A primitive function: the Jacobian of the drive is symmetric.
    net = network(pooling, dense=[5])
    x = batch(getkey)[0][0]
    vector, unravel = jax.flatten_util.ravel_pytree(net.initial_state(x))
    jacobian = jax.jit(jax.jacrev(jax.grad(lambda s: net.coupling(unravel(s), x))))(vector)
    assert jnp.max(jnp.abs(jacobian - jacobian.T)) < 1e-12
    assert jnp.max(jnp.abs(jacobian)) > 0.01


@pytest.mark.parametrize("pooling", [MaxPooling(3, 1), MeanPooling(2)])
def test_a_settled_state_is_the_activation_of_its_drive(pooling, getkey):
    net = network(pooling)
    x = batch(getkey)[0][0]
    rest = ep.settle(net, x, TIGHT)
    drives = jax.grad(net.coupling)(rest.state, x)
    for unit, state, drive in zip(net.units, rest.state, drives, strict=True):
        np.testing.assert_allclose(state, unit(drive), rtol=0, atol=1e-11)
    change = synchronous_change(net, x, rest.state)
    assert max(float(jnp.max(jnp.abs(c))) for c in change) < 1e-11


def test_both_iterations_and_newton_settle_to_one_state(getkey):
    net = network(MaxPooling(2))
    x = batch(getkey)[0][0]
    states = [ep.settle(net, x, solver).state for solver in (TIGHT, ep.FixedPoint(1e-13, 1e-14), ep.Newton())]
    for other in states[1:]:
        np.testing.assert_allclose(flat(other), flat(states[0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", [MaxPooling(2), MeanPooling(2)])
def test_a_plain_sweep_never_raises_the_energy(pooling, getkey):
    net = network(pooling, gain=2.0)
    solver = ep.BlockDescent(relaxation=1.0)
    x = batch(getkey)[0][0]
    state = tuple(jax.random.uniform(getkey(), s.shape) for s in net.initial_state(x))
    step = jax.jit(lambda s: solver.step(net, x, s, solver.init(net, x, s, {}))[0])
    energy = jax.jit(lambda s: net.energy(s, x))
    energies = [energy(state)]
    for _ in range(20):
        state = step(state)
        energies.append(energy(state))
    assert jnp.all(jnp.diff(jnp.stack(energies)) <= 1e-12)
    assert energies[0] - energies[-1] > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": MaxPooling(2)},
        {"pooling": MeanPooling(2), "activation": ep.Tanh(), "dense": [5]},
        {"pooling": None, "skips": [(0, 2, Conv(4, (2, 3), stride=(1, 2)))]},
        pytest.param({"pooling": MaxPooling(3, 1), "softmax": False, "dense": [4]}, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_the_true_one(options, getkey):
    net = network(**options)
    x, labels = batch(getkey)
    softmax = net.readout is not None
    cost, y = (ep.CrossEntropy(), labels) if softmax else (ep.SquaredError(), jnp.eye(3)[labels])
    estimate = ep.EquilibriumPropagation(ep.symmetric(1e-4), TIGHT)(net, cost, x, y)
    truth = ImplicitDifferentiation(TIGHT)(net, cost, x, y)
    assert bool(estimate.settled.all())
    assert relative(estimate.gradient, truth.gradient) < 1e-6


def test_readout_gradients_are_of_second_order_in_beta(getkey):
    net = network(MeanPooling(2), activation=ep.Tanh())
    x, y = batch(getkey)
    truth = ImplicitDifferentiation(TIGHT)(net, ep.CrossEntropy(), x, y)

    def error(beta):
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), TIGHT, nudge=ep.CostNudged)
        return relative(propagate(net, ep.CrossEntropy(), x, y).gradient, truth.gradient)

    coarse, fine = error(0.08), error(0.02)
    assert abs(np.log(coarse / fine) / np.log(4) - 2) < 0.15
    assert fine < 1e-2


def test_a_network_at_zero_leaves_zero(getkey):
    # Derivatives of the hard sigmoid at its bounds are those inside.
    net = network(MaxPooling(2))
    x = batch(getkey)[0][0]
    zero = jax.tree.map(jnp.zeros_like, net.initial_state(x))
    rest = ep.settle(net, x, TIGHT, start=zero)
    np.testing.assert_allclose(flat(rest.state), flat(ep.settle(net, x, TIGHT).state), atol=1e-10)
    assert float(jnp.linalg.norm(flat(rest.state))) > 0.5


def test_images_may_come_flat_or_without_their_one_channel(getkey):
    net = ConvHopfield((5, 5, 1), [Conv(2, 3)], 2, key=getkey(), mean=[0.5], deviation=[2.0])
    x = jax.random.uniform(getkey(), (5, 5))
    plain = ConvHopfield((5, 5, 1), [Conv(2, 3)], 2, key=getkey())
    plain = eqx.tree_at(lambda n: (n.connections, n.readout), plain, (net.connections, net.readout))
    expected = flat(plain.initial_state((x - 0.5) / 2))
    for image in (x, x[..., None], x.reshape(-1)):
        np.testing.assert_allclose(flat(net.initial_state(image)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda k: ConvHopfield((4, 4, 1), [Conv(2, 5)], 2, key=k), r"`layers\[0\]` does not fit the \(4, 4, 1\)"),
        (lambda k: ConvHopfield((6, 6, 1), [Conv(2, 5), Conv(2, 3)], 2, key=k), r"`layers\[1\]` .* kernel of 3"),
        (lambda k: ConvHopfield((6, 6, 1), [Conv(2, 5, pooling=MaxPooling(3))], 2, key=k), "kernel of 3 .* image of 2"),
        (lambda k: ConvHopfield((6, 6), [Conv(2, 5)], 2, key=k), r"`image` must be \(height, width, channels\)"),
        (lambda k: ConvHopfield((6, 6, 1), [], 2, key=k), "needs `layers` or `dense`"),
        (lambda _: Conv(2, 3, stride=(1, 2, 3)), "`Conv.stride` must be a whole number"),
        (lambda _: Conv(2, 3, stride=0), "`Conv.stride` must be a whole number of at least 1"),
        (lambda _: Conv(0, 3), "`Conv.features` must be a positive whole number"),
        (lambda _: network(skips=[(0, 1, Conv(3))]), r"`skips` holds \(0, 1\), which joins no two convolutional"),
        (lambda _: network(skips=[(0, 2, Conv(4))]), r"The skip \(0, 2\) gives \(4, 4, 4\), but layer 2 is"),
        (lambda _: network(mean=[0.1]), "one number for each of the 2 channels"),
        (lambda _: network(deviation=[0.1, 0.0]), "deviations positive"),
    ],
)
def test_plans_that_do_not_fit_are_told(build, message, getkey):
    with pytest.raises(ValueError, match=message):
        build(getkey())


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3), (2, 6, 6), (70,)])
def test_images_of_another_shape_are_refused(shape, getkey):
    with pytest.raises(ValueError, match=r"which reads \(height, width, channel\) = \(6, 6, 2\)"):
        ep.settle(network(), jnp.zeros(shape), TIGHT)


def test_nan_in_a_batch_is_told(getkey):
    x, y = batch(getkey)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), TIGHT)
    with pytest.raises(ValueError, match="`inputs` holds NaN or infinity, first in example 1"):
        propagate(network(), ep.CrossEntropy(), x.at[1, 0, 0, 0].set(jnp.nan), y)
