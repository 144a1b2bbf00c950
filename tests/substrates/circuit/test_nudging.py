"""How circuits learn: accuracy (A5) and order (A6) of nudges, input gradients (A14), coupled learning (A15)."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from tests.circuit_nets import layered

import eqprop as ep
import eqprop.circuits as ckt
from eqprop.substrates.circuit.power import leaving_currents

SOLVER = ckt.GraphNewton(rtol=1e-11, atol=1e-14)
COST = ep.SquaredError()


def flat(tree):
    return jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


@pytest.fixture(scope="module")
def problem():
    # 20 free nodes, 360 resistors, 16 diodes: the circuit for which the bars below were set.
    network = layered(inputs=8, hidden=16, outputs=4)
    inputs, targets = jax.random.normal(jax.random.key(1), (4, 8)), 0.1 * jax.random.normal(jax.random.key(2), (4, 4))
    truth = flat(ep.ImplicitDifferentiation(SOLVER)(network, COST, inputs, targets).gradient)
    state = ckt.operating_points(network, inputs, SOLVER).state
    beta = min(ckt.relative_beta(1.0, network, s, x) for s, x in zip(state, inputs, strict=True))
    return network, inputs, targets, truth, beta


@pytest.mark.parametrize(
    ("stencil", "nudge", "order", "fractions", "bar"),
    [
        (ep.one_sided, ep.Forced, 1, (0.01, 0.1), 3e-2),
        (ep.symmetric, ep.Forced, 2, (0.03, 0.3), 1e-6),
        pytest.param(ep.symmetric, ep.CostNudged, 2, (0.01, 0.1), 1e-3, marks=pytest.mark.slow),
    ],
    ids=["one-sided current", "symmetric current", "symmetric conductance"],
)
def test_nudges_are_of_their_order_and_size(problem, stencil, nudge, order, fractions, bar):
    network, inputs, targets, truth, port = problem

    def error(fraction):
        estimator = ep.EquilibriumPropagation(stencil(fraction * port), SOLVER, nudge=nudge)
        found = flat(estimator(network, COST, inputs, targets).gradient)
        return float(jnp.linalg.norm(found - truth) / jnp.linalg.norm(truth))

    small, large = (error(f) for f in fractions)
    slope = np.log(large / small) / np.log(fractions[1] / fractions[0])
    assert slope == pytest.approx(order, abs=0.1)
    assert error(0.01) <= bar


def test_symmetric_current_points_where_the_gradient_does(problem):
    network, inputs, targets, truth, port = problem
    found = flat(ep.EquilibriumPropagation(ep.symmetric(0.01 * port), SOLVER)(network, COST, inputs, targets).gradient)
    cosine = float(jnp.dot(found, truth) / (jnp.linalg.norm(found) * jnp.linalg.norm(truth)))
    assert cosine >= 1 - 1e-10


def test_input_gradients_are_source_currents(problem):
    network, inputs, targets, _, port = problem
    x, y, beta = inputs[0], targets[0], 0.01 * port
    free = ep.settle(network, x, SOLVER)
    # A layer nudges by a force of norm one: the same current as the estimator's takes beta times the norm of the error.
    size = jnp.linalg.norm(network.output(free.state) - y)
    layer = ep.Layer(network, ep.EquilibriumPropagation(ep.symmetric(beta * size), SOLVER))
    found = jax.jit(jax.grad(lambda x: COST(layer(x), y)))(x)
    # Exactly, by the implicit function theorem.
    hessian = jax.jit(jax.hessian(network.energy))(free.state, x)
    mixed = jax.jit(jax.jacfwd(jax.grad(network.energy), 1))(free.state, x)
    pull = jax.jit(jax.grad(lambda s: COST(network.output(s), y)))(free.state)
    adjoint = jnp.linalg.solve(hessian, pull)
    exact = -jnp.dot(adjoint, mixed)
    assert float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) <= 1e-6
    # And as a bench would find it: what the sources of +x and -x deliver in the two nudged phases.
    phases = [
        ep.settle(ep.Forced(network, COST, y, free, jnp.asarray(b)), x, SOLVER, free=free).state for b in (beta, -beta)
    ]
    plus, minus = (leaving_currents(network, s, x)[network.nodes("x").index] for s in phases)
    contrast = (plus - minus) / (2 * beta)
    np.testing.assert_allclose(contrast[:8] - contrast[8:], exact, rtol=1e-5, atol=1e-6 * float(jnp.abs(exact).max()))


def test_a_softmax_readout_learns_by_currents():
    # Cross-entropy of s·v: the nudging current is beta s (one-hot - p), which no conductance to a target gives.
    network = layered(gain=20.0)
    inputs, labels = jax.random.normal(jax.random.key(1), (4, 4)), jnp.array([0, 2, 1, 1])
    truth = ep.ImplicitDifferentiation(SOLVER)(network, ep.CrossEntropy(), inputs, labels)
    beta = ckt.relative_beta(0.01, network, ckt.operating_points(network, inputs[:1], SOLVER).state[0], inputs[0])
    found = ep.EquilibriumPropagation(ep.symmetric(beta), SOLVER)(network, ep.CrossEntropy(), inputs, labels)
    error = jnp.linalg.norm(flat(found.gradient) - flat(truth.gradient)) / jnp.linalg.norm(flat(truth.gradient))
    assert float(error) <= 1e-6
    free = ep.settle(network, inputs[0], SOLVER)
    force = ep.Forced(network, ep.CrossEntropy(), labels[0], free, jnp.asarray(beta)).outputs_force
    np.testing.assert_allclose(force, jnp.eye(3)[0] - jax.nn.softmax(found.outputs[0]), atol=1e-10)


def test_port_conductance_is_a_schur_complement():
    circuit = ckt.Circuit()
    x, h, y = circuit.inputs("x", 1), circuit.node("h"), circuit.node("y")
    circuit.resistors("a", x, h, conductance=1e-3)
    circuit.resistors("b", h, y, conductance=2e-3)
    circuit.resistors("c", y, circuit.ground, conductance=5e-4)
    circuit.outputs(y)
    network, x = circuit.compile(), jnp.ones(1)
    # In series 1 mS and 2 mS, in parallel with 0.5 mS.
    expected = 1 / (1 / 1e-3 + 1 / 2e-3) + 5e-4
    np.testing.assert_allclose(ckt.port_conductance(network, jnp.zeros(2), x), [[expected]], rtol=1e-13)
    assert ckt.relative_beta(0.01, network, jnp.zeros(2), x) == pytest.approx(0.01 * expected, rel=1e-12)


@pytest.mark.parametrize(("order", "power"), [(1, 1 / 2), (2, 1 / 3)])
def test_suggested_beta_is_the_best_and_scales(order, power):
    noise, response, scale = 1e-4, 250.0, 0.05
    best = ckt.suggest_beta(noise, response, voltage_scale=scale, order=order)

    def error(beta):
        return (beta * response / scale) ** (2 * order) + (noise / (beta * response)) ** 2

    assert error(best) < min(error(0.99 * best), error(1.01 * best))
    assert ckt.suggest_beta(8 * noise, response, voltage_scale=scale, order=order) / best == pytest.approx(8**power)
    with pytest.raises(ValueError, match="`read_noise` must be positive"):
        ckt.suggest_beta(0.0, response)


class PortError(ep.cost.Cost):
    """½ (v - y)ᵀ S (v - y), S the frozen port conductance: what coupled learning descends."""

    conductance: np.ndarray

    def __call__(self, output, targets):
        return 0.5 * jnp.dot(output - targets, jnp.dot(jax.lax.stop_gradient(self.conductance), output - targets))


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 3])
def test_coupled_learning_weighs_the_error_by_the_port_conductance(outputs):
    network = layered(outputs=outputs, drive=2.0)
    inputs = jax.random.normal(jax.random.key(1), (1, 4))
    targets = 0.3 * jnp.ones((1, outputs))
    state = ckt.operating_points(network, inputs, SOLVER).state[0]
    port = ckt.port_conductance(network, state, inputs[0])
    coupled = flat(ep.CoupledLearning(SOLVER, eta=1e-3)(network, COST, inputs, targets).gradient)
    weighted = flat(
        ep.EquilibriumPropagation(ep.symmetric(1e-4), SOLVER)(network, PortError(port), inputs, targets).gradient
    )

    def cosine(a, b):
        return float(jnp.dot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))

    assert cosine(coupled, weighted) >= 0.999999
    assert float(jnp.linalg.norm(coupled) / jnp.linalg.norm(weighted)) == pytest.approx(1, abs=2e-3)
    if outputs == 1:
        plain = flat(ep.EquilibriumPropagation(ep.symmetric(1e-6), SOLVER)(network, COST, inputs, targets).gradient)
        assert cosine(coupled, plain) >= 0.999999
