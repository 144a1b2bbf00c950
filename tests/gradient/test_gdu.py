"""Gradient-descending updates: equilibrium propagation and backpropagation through time, step by step."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.gradient.gdu import compare_updates, plot_updates
from eqprop.settle.base import state_gradient
from eqprop.settle.outside import OutsideNudge
from eqprop.substrates.conv_hopfield import Conv, ConvHopfield
from eqprop.substrates.convolution import MaxPooling, MeanPooling
from eqprop.train.data import load


class Primitive(ep.System):
    """Phi of a map without an activation, as E = |s|^2 / 2 - Phi: smooth, coupled within, no blocks."""

    coupling: jax.Array
    drive: jax.Array

    def energy(self, state, inputs):
        mixed = jnp.dot(self.coupling, state)
        phi = 0.3 * jnp.sum(jnp.log(jnp.cosh(mixed))) + jnp.dot(jnp.dot(inputs, self.drive), state)
        return 0.5 * jnp.sum(state**2) - phi

    def initial_state(self, inputs):
        return jnp.zeros_like(self.coupling[0])

    def output(self, state):
        return state[:2]


def primitive():
    keys = jax.random.split(jax.random.key(3), 2)
    return Primitive(0.5 * jax.random.normal(keys[0], (6, 6)), jax.random.normal(keys[1], (4, 6)))


def perceptron(activation=None, sizes=(4, 8, 6, 3)):
    activation = ep.Tanh() if activation is None else activation
    return ep.LayeredHopfield(list(sizes), key=jax.random.key(1), activation=activation)


def conv():
    layers = [Conv(3, 3, pooling=MaxPooling(2)), Conv(4, 2, padding=1)]
    return ConvHopfield((8, 8, 1), layers, 3, key=jax.random.key(0), dense=[5])


def task(getkey, shape=(4,), labels=False, size=3):
    y = jnp.arange(size) % 3
    return jax.random.uniform(getkey(), (size, *shape)), y if labels else jnp.eye(3)[y]


def test_without_an_activation_updates_are_the_gradients(getkey):
    x, y = task(getkey)
    both = compare_updates(primitive(), ep.SquaredError(), x, y[:, :2], steps=12)
    assert bool(both.settled.all())
    assert both.relative_error < 1e-9
    assert both.state_relative_error < 1e-9
    # The force enters where the state does: its gradient is the state's, here the slope of the cost at first.
    slope = jax.vmap(lambda x, y: ep.settle(primitive(), x, ep.FixedPoint(1e-13, 1e-13)).state[:2] - y)(x, y[:, :2])
    np.testing.assert_allclose(both.state_gradients[0][:, :2], slope, atol=1e-10)


def test_eight_steps_of_a_weakly_nudged_transient_are_the_gradients_at_the_bar(getkey):
    x, y = task(getkey)
    both = compare_updates(primitive(), ep.SquaredError(), x, y[:, :2], steps=8, stencil=ep.symmetric(1e-5))
    assert both.relative_error < 1e-7


@pytest.mark.parametrize(
    ("activation", "nudge"),
    [
        (ep.Tanh(), ep.CostNudged),
        pytest.param(ep.Logistic(), ep.Forced, marks=pytest.mark.slow),
        pytest.param(ep.HardSigmoid(), ep.CostNudged, marks=pytest.mark.slow),
        (ep.HalfHardSigmoid(), ep.Forced),
    ],
)
def test_with_the_nudge_inside_the_activation_updates_are_the_gradients(activation, nudge, getkey):
    x, y = task(getkey)
    exact = compare_updates(perceptron(activation), ep.SquaredError(), x, y, nudge=nudge)
    assert exact.relative_error < 1e-9
    assert exact.state_relative_error < 1e-9
    small = compare_updates(perceptron(activation), ep.SquaredError(), x, y, nudge=nudge, stencil=ep.one_sided(1e-6))
    assert small.relative_error < 1e-4
    assert small.sign_agreement > 0.999


def test_convolutional_networks_have_the_property(getkey):
    x, y = task(getkey, (8, 8, 1), labels=True)
    exact = compare_updates(conv(), ep.CrossEntropy(), x, y)
    assert exact.relative_error < 1e-9
    assert exact.relative_rms < 1e-9
    assert exact.sign_agreement > 0.9999


def test_symmetric_nudging_halves_the_error_at_least(getkey):
    x, y = task(getkey)
    network = perceptron()
    one, both = (
        compare_updates(network, ep.SquaredError(), x, y, stencil=rule(0.1)) for rule in (ep.one_sided, ep.symmetric)
    )
    assert both.relative_rms < 0.5 * one.relative_rms
    assert both.sign_agreement > 0.95


def test_synchronous_iteration_converges_to_rest(getkey):
    # Changes of the state fall step by step to below 1e-6; in float32, to below 1e-4.
    network, x = conv(), task(getkey, (8, 8, 1))[0][0]
    for dtype, bar in ((jnp.float64, 1e-6), (jnp.float32, 1e-4)):
        net, image = jax.tree.map(lambda a, d=dtype: a.astype(d) if eqx.is_inexact_array(a) else a, (network, x))
        solver = ep.FixedPoint()

        def advance(state, _, net=net, image=image, solver=solver):
            after = solver.step(net, image, state, solver.init(net, image, state, {}))[0]
            return after, jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(after, state, strict=True)))

        zero = jax.tree.map(jnp.zeros_like, net.initial_state(image))
        changes = jax.jit(lambda s, advance=advance: jax.lax.scan(advance, s, length=80)[1])(zero)
        assert changes[-1] < bar
        assert changes[0] > 0.5
        assert jnp.all(jnp.diff(changes[2:30]) < 0)


def test_a_layer_is_reached_after_as_many_steps_as_lie_above_it(getkey):
    x, y = task(getkey)
    curves = compare_updates(perceptron(), ep.SquaredError(), x, y).state_updates
    moved = np.asarray([[jnp.any(jnp.abs(layer[t]) > 1e-12) for layer in curves] for t in range(4)])
    assert moved.argmax(0).tolist() == [2, 1, 0]


def test_the_nudged_transient_is_recurrent_backpropagation(getkey):
    # A gradient flow, by Euler steps: minus the velocity over beta obeys the adjoint equation, d/dt S = -H S.
    x, y = task(getkey)
    step, steps = 0.05, 100
    network = perceptron()
    flow = ep.GradientFlow(step, rtol=1e-13, atol=1e-14, max_steps=50_000)
    both = compare_updates(
        network,
        ep.SquaredError(),
        x,
        y,
        steps=steps,
        solver=flow,
        free_solver=ep.Newton(1e-12, 1e-12),
        stencil=ep.one_sided(1e-5),
    )
    rest = jax.vmap(lambda x: ep.settle(network, x, ep.Newton(1e-12, 1e-12)).state)(x)

    def adjoint_curve(x, y, state):
        start = jax.grad(lambda s: ep.SquaredError()(network.output(s), y))(state)

        def advance(adjoint, _):
            bent = jax.jvp(lambda s: state_gradient(network, s, x), (state,), (adjoint,))[1]
            return jax.tree.map(lambda a, b: a - step * b, adjoint, bent), adjoint

        return jax.lax.scan(advance, start, length=steps)[1]

    curves = jax.jit(jax.vmap(adjoint_curve, out_axes=1))(x, y, rest)
    for update, adjoint in zip(both.state_updates, curves, strict=True):
        assert jnp.linalg.norm(update / step - adjoint) < 1e-4 * jnp.linalg.norm(adjoint)
    assert both.relative_error < 1e-4


def test_a_truncated_phase_gives_the_gradient_of_the_projected_cost(getkey):
    # The cost of the state that so many steps, begun at rest, arrive at: by reverse-mode, the start held.
    x, y = task(getkey)
    network, flow = perceptron(), ep.GradientFlow(0.1, rtol=1e-13, atol=1e-14)
    both = compare_updates(network, ep.SquaredError(), x, y, steps=10, solver=flow, free_solver=ep.Newton(1e-12, 1e-12))
    rest = jax.vmap(lambda x: ep.settle(network, x, ep.Newton(1e-12, 1e-12)).state)(x)

    def projected(network):
        def one(x, y, state):
            for _ in range(10):
                state = flow.step(network, x, state, None)[0]
            return ep.SquaredError()(network.output(state), y)

        return jnp.mean(jax.vmap(one)(x, y, rest))

    gradient = eqx.filter_jit(eqx.filter_grad(projected))(network)
    for curve, expected in zip(jax.tree.leaves(both.parameter_updates), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(jnp.sum(curve, 0), expected, atol=1e-9)


def test_nudging_outside_the_activation_leaves_an_error_that_does_not_vanish(getkey):
    x, y = task(getkey)
    network = ep.LayeredHopfield([4, 8, 3], key=jax.random.key(1), activation=ep.Logistic(), output=ep.Logistic())
    tight = ep.FixedPoint(1e-13, 1e-14)

    def error(solver, beta):
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), tight, nudge=ep.CostNudged, nudged_solver=solver)
        found, _ = jax.flatten_util.ravel_pytree(propagate(network, ep.SquaredError(), x, y).gradient)
        truth, _ = jax.flatten_util.ravel_pytree(
            ep.ImplicitDifferentiation(tight)(network, ep.SquaredError(), x, y).gradient
        )
        return float(jnp.linalg.norm(found / jnp.linalg.norm(found) - truth / jnp.linalg.norm(truth)))

    inside, outside = ep.FixedPoint(1e-10, 1e-14), OutsideNudge(1e-10, 1e-14)
    assert error(inside, 1e-4) < 1e-6
    # Even the direction is off, and a hundred times weaker a nudge does not help.
    assert error(outside, 1e-4) > 5e-3
    assert abs(error(outside, 1e-4) / error(outside, 1e-2) - 1) < 0.1
    assert compare_updates(network, ep.SquaredError(), x, y, free_solver=tight).relative_error < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("case", ["perceptron", "convolutional", "smooth convolutional"])
def test_the_literatures_networks(case):
    # 784-512-10 of hyperbolic tangents, and 5x5-32, pool, 5x5-64, pool, 10: of hard sigmoids and maxima as in the
    # literature, of hyperbolic tangents and means; squared error, digits.
    key = jax.random.key(0)
    if case == "perceptron":
        network, shape = ep.LayeredHopfield([784, 512, 10], key=key, activation=ep.Tanh(), gain=1.0), (784,)
    else:
        hard = case == "convolutional"
        activation, pooling = (ep.HardSigmoid(), MaxPooling(2)) if hard else (ep.Tanh(), MeanPooling(2))
        layers, shape = [Conv(32, 5, pooling=pooling), Conv(64, 5, pooling=pooling)], (28, 28, 1)
        network = ConvHopfield(shape, layers, 10, key=key, activation=activation, softmax=False, gain=1.0)
    data = load("digits")
    pictures = jax.image.resize(jnp.asarray(data.train_inputs[:2], float), (2, 28, 28), "linear")
    x, y = pictures.reshape(2, *shape), jnp.eye(10)[data.train_targets[:2]]

    def compare(stencil):
        free = ep.BlockDescent(1e-12, 1e-13)
        return compare_updates(network, ep.SquaredError(), x, y, stencil=stencil, free_solver=free)

    weak, one, two = (compare(stencil) for stencil in (ep.symmetric(1e-5), ep.one_sided(0.1), ep.symmetric(0.1)))
    assert bool(weak.settled.all())
    assert weak.relative_rms < 1e-3
    assert weak.relative_error < 1e-3
    assert two.relative_error < 0.5 * one.relative_error
    # A kink is no curvature, and does not cancel between the signs: entry by entry the maxima leave 0.515.
    assert two.relative_rms < (0.53 if case == "convolutional" else 0.2) * one.relative_rms
    assert two.sign_agreement > 0.95


def test_a_plot_has_a_panel_for_each_parameter_and_each_layer(getkey):
    x, y = task(getkey)
    both = compare_updates(perceptron(), ep.SquaredError(), x, y, stencil=ep.symmetric(0.1))
    figure = plot_updates(both, entries=2)
    assert len(figure.axes) == 3 + 3 + 3
    assert [axes.get_title() for axes in figure.axes[2:4]] == ["weights[2]", "biases[0]"]
    lines = figure.axes[0].lines
    assert len(lines) == 4
    np.testing.assert_allclose(lines[0].get_ydata(), lines[1].get_ydata(), atol=0.05)
    assert "signs agree" in str(both)


def test_bad_requests_are_told(getkey):
    x, y = task(getkey)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        compare_updates(perceptron(), ep.SquaredError(), x, y, steps=0)
    with pytest.raises(ValueError, match="`solver` must make steps, such as `FixedPoint`; got AdaptiveGradientFlow"):
        compare_updates(perceptron(), ep.SquaredError(), x, y, solver=ep.AdaptiveGradientFlow())
    with pytest.raises(ValueError, match="must share their leading axis"):
        compare_updates(perceptron(), ep.SquaredError(), x[0], y)
