"""Certificates are given for what is right, on every system of the library, and refused for what is wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.systems import Springs, quartic, quartic_batch

import eqprop as ep

COST = ep.SquaredError()
SMOOTH = ep.LayeredHopfield([4, 6, 3], key=jax.random.key(0), activation=ep.Tanh())
X, Y = jax.random.uniform(jax.random.key(1), (5, 4)), jnp.eye(3)[jnp.arange(5) % 3]


def spring_network():
    places = np.array([[0, 0], [1, 0], [0.5, 0.8], [1.5, 0.8], [1, 1.6]], float)
    springs = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]
    system = ep.SpringNetwork(places, springs, jnp.linspace(1.0, 2.0, 7), pinned=[0, 1], driven=[2], outputs=[4])
    return system, 0.1 * X[:, :2].reshape(5, 1, 2), 0.1 * X[:, 2:].reshape(5, 1, 2)


def flow_network():
    pipes = [(0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (2, 5), (2, 4)]
    system = ep.FlowNetwork(6, pipes, jnp.linspace(1.0, 2.0, 7), driven=[0, 1], outputs=[4])
    return system, X[:, :2], X[:, 2:3]


def graph_network():
    edges = [(0, 4), (1, 4), (2, 5), (3, 6), (4, 5), (5, 6), (4, 6), (6, 7), (5, 8), (7, 8)]
    system = ep.GraphHopfield(4, 5, edges, [7, 8], key=jax.random.key(3), activation=ep.Logistic())
    return system, X, Y[:, :2]


@pytest.mark.parametrize(
    "case",
    [lambda: (SMOOTH, X, Y), spring_network, flow_network, pytest.param(graph_network, marks=pytest.mark.slow)],
    ids=["layered", "springs", "flow", "graph"],
)
def test_certificates_are_given_on_every_system(case):
    system, inputs, targets = case()
    solver = ep.Newton(rtol=1e-10, atol=1e-11)
    certificate = ep.certify(system, COST, inputs, targets, ep.EquilibriumPropagation(ep.symmetric(0.02), solver))
    assert certificate.ok, str(certificate)
    assert certificate.cosine > 0.9999
    assert certificate.exact or abs(certificate.order - 2) < 0.15


def test_exactness_is_recognised_on_piecewise_quadratic_systems():
    network = ep.LayeredHopfield([4, 6, 3], key=jax.random.key(0))
    tight = ep.BlockDescent(rtol=1e-11, atol=1e-12)
    certificate = ep.certify(network, COST, X, Y, ep.EquilibriumPropagation(ep.symmetric(1e-3), tight))
    assert certificate.ok
    assert certificate.exact
    assert certificate.order is None
    assert "exact (at the rounding floor)" in str(certificate)


def test_orders_are_fitted_for_each_stencil():
    system, (inputs, targets) = quartic(), quartic_batch()
    for rule, order in ((ep.one_sided, 1), (ep.symmetric, 2), (ep.richardson, 4)):
        certificate = ep.certify(system, COST, inputs, targets, ep.EquilibriumPropagation(rule(0.05), ep.Newton()))
        assert certificate.ok, str(certificate)
        assert abs(certificate.order - order) < 0.15
        assert certificate.declared_order == order


def refused(propagate, message, system=SMOOTH, inputs=X, targets=Y):
    certificate = ep.certify(system, COST, inputs, targets, propagate)
    assert not certificate.ok
    assert message in str(certificate), str(certificate)
    return certificate


GOOD = ep.EquilibriumPropagation(ep.symmetric(0.02), ep.BlockDescent())


def test_a_flipped_sign_is_refused():
    def flipped(*arguments, **options):
        estimate = GOOD(*arguments, **options)
        return eqx.tree_at(lambda e: e.gradient, estimate, jax.tree.map(jnp.negative, estimate.gradient))

    assert refused(flipped, "is flipped").cosine < -0.99


def test_a_feed_forward_pass_dressed_as_an_estimator_is_refused():
    def feed_forward(system, cost, inputs, targets, *, start=None, key=None):
        estimate = GOOD(system, cost, inputs, targets, start=start, key=key)

        def loss(system):
            hidden = jnp.tanh(inputs @ system.weights[0] + system.biases[0][None])
            outputs = hidden @ system.weights[1] + system.biases[1][None]
            return jnp.mean(jax.vmap(cost)(outputs, targets)), (hidden, outputs)

        gradient, state = eqx.filter_grad(loss, has_aux=True)(system)
        return eqx.tree_at(lambda e: (e.gradient, e.free.state), estimate, (gradient, state))

    refused(feed_forward, "a pass that does not settle is not a free phase")


def test_an_unsettled_free_phase_is_refused():
    hasty = ep.EquilibriumPropagation(ep.symmetric(0.02), ep.GradientFlow(0.1, max_steps=4))
    refused(hasty, "100% of the examples did not settle")

    def claims_to_have_settled(*arguments, **options):
        estimate = hasty(*arguments, **options)
        settled = jax.tree.map(jnp.zeros_like, estimate.result)
        unmasked = ep.EquilibriumPropagation(ep.symmetric(0.02), ep.GradientFlow(0.1, rtol=0.5, atol=0.5))(
            *arguments, **options
        )
        return eqx.tree_at(lambda e: e.result, unmasked, settled)

    refused(claims_to_have_settled, "The free states are no equilibria")


class DoubleWell(ep.System):
    """Two rest states for each input, at about ±1."""

    height: jax.Array

    def energy(self, state, inputs):
        return jnp.sum(self.height * (state**2 - 1) ** 2) - jnp.sum(inputs * state)

    def initial_state(self, inputs):
        return jnp.ones_like(inputs)


def test_a_nudged_phase_on_another_branch_is_refused_and_named():
    system, inputs, targets = DoubleWell(jnp.asarray([0.3, 0.4])), 0.1 * X[:, :2], jnp.full((5, 2), -1.0)
    good = ep.EquilibriumPropagation(ep.symmetric(0.005), ep.GradientFlow(0.05, max_steps=20000, rtol=1e-9, atol=1e-10))
    assert ep.certify(system, COST, inputs, targets, good).ok
    strong = ep.EquilibriumPropagation(ep.symmetric(2.0), ep.GradientFlow(0.05, max_steps=20000, rtol=1e-9, atol=1e-10))
    refused(strong, "left the branch of the free state", system, inputs, targets)


def test_too_large_a_beta_is_refused_with_one_that_works():
    refused(ep.EquilibriumPropagation(ep.one_sided(0.8), ep.Newton()), "With beta = ", quartic(), *quartic_batch())


def test_the_certificate_prints_every_parameter():
    text = str(ep.certify(SMOOTH, COST, X, Y, GOOD))
    for name in ("weights[0]", "weights[1]", "biases[0]", "biases[1]"):
        assert name in text
    assert text.startswith("CERTIFIED")


def test_a_zero_gradient_is_certified_as_such():
    system, inputs = Springs(jnp.asarray([1.0, 2.0])), jnp.zeros((2, 2))
    certificate = ep.certify(system, COST, inputs, inputs, ep.EquilibriumPropagation(ep.symmetric(0.1), ep.Newton()))
    assert certificate.ok
    assert certificate.relative_error == 0
