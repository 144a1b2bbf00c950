"""Compiled circuits against closed forms; amplifier weights; sources; books."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from tests.circuit_nets import cascade, layered

import eqprop as ep
import eqprop.circuits as ckt
from eqprop.substrates.circuit.power import leaving_currents


def flat(tree):
    return jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


def test_node_voltages_of_a_linear_circuit():
    # Millman's theorem, with a Norton source, a current source, a floating source and a differential output.
    circuit = ckt.Circuit()
    x, a, b = circuit.inputs("x", 1, gain=2.0), circuit.node("a"), circuit.node("b")
    circuit.resistors("r1", x, a, resistance="2k")
    circuit.resistors("r2", b, circuit.ground, resistance="1k")
    circuit.norton("n", a, 0.5, conductance="1m")
    circuit.current_source("i", b, "1m")
    circuit.floating_source("e", a, b, 0.25)
    circuit.outputs(a, b, gain=3.0)
    network = circuit.compile()
    points = ckt.operating_points(network, jnp.array([[1.5]]))
    # Supernode: (2·1.5 - a)/2k + (0.5 - a) 1m + 1m - (a - 0.25)/1k = 0.
    expected = (1.5e-3 + 0.5e-3 + 1e-3 + 0.25e-3) / 2.5e-3
    state = points.state[0]
    np.testing.assert_allclose(network.voltage("a", state, jnp.array([1.5])), [expected], rtol=1e-14)
    np.testing.assert_allclose(network.voltage("b", state, jnp.array([1.5])), [expected - 0.25], rtol=1e-14)
    np.testing.assert_allclose(points.outputs[0], [0.75], rtol=1e-13)


def test_energy_is_half_the_power_of_a_resistive_circuit():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 2), circuit.nodes("y", 2)
    circuit.crossbar("W", x, y, conductance=np.array([[1e-3, 2e-3], [3e-3, 4e-3]]))
    circuit.outputs(y)
    network, x = circuit.compile(), jnp.array([1.0, -2.0])
    points = ckt.operating_points(network, x[None])
    np.testing.assert_allclose(2 * network.energy(points.state[0], x), points.balance.absorbed[0], rtol=1e-13)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(layered, marks=pytest.mark.slow),
        cascade,
        lambda: layered(device=ckt.IdealDiode()),
        lambda: layered(sources=True),
    ],
)
def test_books_balance(build):
    network = build()
    inputs = 3 * jax.random.normal(jax.random.key(3), (8, network.topology.input_size))
    points = ckt.operating_points(network, inputs)
    assert float(points.balance.kirchhoff.max()) <= 1e-12
    assert float(jnp.abs(points.balance.tellegen).max()) <= 1e-10
    assert float(points.balance.absorbed.min()) > 1e-6


def test_gradient_of_the_energy_is_the_current_that_leaves():
    network, x = layered(sources=True), jnp.array([1.0, -2.0, 0.5, 0.3])
    state = 0.1 * jax.random.normal(jax.random.key(0), (len(network.topology.units),))
    leaving = eqx.filter_jit(leaving_currents)(network, state, x)[np.array(network.topology.units)]
    np.testing.assert_allclose(jax.jit(jax.grad(network.energy))(state, x), leaving, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize(("current_gain", "factors"), [(0.25, (256.0, 16.0, 1.0)), (4.0, (1.0, 1.0, 1.0))])
def test_amplifiers_weigh_the_layers(current_gain, factors):
    # A = 4, three layers: what the weights make of the raw local contrast of voltages.
    network = cascade(current_gain=current_gain)
    for k, factor in enumerate(factors):
        assert network.branch_weight(f"W{k}") == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("current_gain", [0.25, pytest.param(4.0, marks=pytest.mark.slow)])
def test_gradients_through_amplifiers(current_gain):
    network = cascade(current_gain=current_gain)
    inputs, targets = jax.random.normal(jax.random.key(1), (4, 2)), 0.1 * jnp.ones((4, 3))
    solver = ckt.GraphNewton(rtol=1e-11)
    estimate = ep.EquilibriumPropagation(ep.symmetric(1e-7), solver)(network, ep.SquaredError(), inputs, targets)
    truth = ep.ImplicitDifferentiation(solver)(network, ep.SquaredError(), inputs, targets)
    for name in ("W0", "W1", "W2"):
        found, true = (flat(g.gradient.elements[name]) for g in (estimate, truth))
        cosine = jnp.dot(found, true) / (jnp.linalg.norm(found) * jnp.linalg.norm(true))
        assert float(cosine) >= 1 - 1e-8
        assert float(jnp.linalg.norm(found) / jnp.linalg.norm(true)) == pytest.approx(1, rel=1e-4)


def test_any_branch_quantity_is_trained():
    # Conductances, source voltages, bias currents, diode parameters: against implicit differentiation.
    diode = ckt.SpiceDiode(ckt.Log(1e-6), ckt.Plain(1.5))
    network = layered(device=diode, sources=True)
    inputs, targets = jax.random.normal(jax.random.key(1), (5, 4)), 0.1 * jnp.ones((5, 3))
    solver = ckt.GraphNewton(rtol=1e-12)
    truth = ep.ImplicitDifferentiation(solver)(network, ep.SquaredError(), inputs, targets)
    estimate = ep.EquilibriumPropagation(ep.symmetric(1e-5), solver)(network, ep.SquaredError(), inputs, targets)
    names = jax.tree_util.tree_leaves_with_path(truth.gradient)
    assert len(names) == 6
    for (_, true), (_, found) in zip(names, jax.tree_util.tree_leaves_with_path(estimate.gradient), strict=True):
        assert float(jnp.linalg.norm(true)) > 0
        np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-6 * float(jnp.abs(true).max()))


def test_compiled_circuits_survive_jit_and_keep_the_order_of_their_sources():
    circuit = ckt.Circuit()
    late, early = circuit.source("z", 1.0), circuit.source("a", 2.0)
    y = circuit.node("y")
    circuit.resistors("r1", late, y, resistance="1k")
    circuit.resistors("r2", early, y, resistance="3k")
    circuit.outputs(y)
    network = jax.tree.map(lambda leaf: leaf, circuit.compile())
    points = ckt.operating_points(network, jnp.zeros((1, 0)))
    np.testing.assert_allclose(points.outputs, [[(1 / 1e3 + 2 / 3e3) / (1 / 1e3 + 1 / 3e3)]], rtol=1e-14)
