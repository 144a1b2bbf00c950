"""Clamped phases: limits of contrastive Hebbian learning and of coupled learning."""

import jax
import jax.numpy as jnp
import pytest
from tests.systems import flat, relative

import eqprop as ep

COST = ep.SquaredError()
SOLVER = ep.BlockDescent(rtol=1e-11, atol=1e-12)
NETWORK = ep.LayeredHopfield([4, 6, 3], key=jax.random.key(0), activation=ep.Tanh())
X, Y = jax.random.uniform(jax.random.key(1), (5, 4)), jnp.eye(3)[jnp.arange(5) % 3]


def test_strong_nudging_clamps_and_becomes_contrastive_hebbian_learning():
    hebbian = ep.ContrastiveHebbian(SOLVER)(NETWORK, COST, X, Y)
    assert hebbian.settled.all()
    assert jnp.allclose(hebbian.nudged.state[-1][0], Y)

    def gap(beta):
        strong = ep.EquilibriumPropagation(ep.one_sided(beta), ep.Newton(rtol=1e-12, atol=1e-13), nudge=ep.CostNudged)
        return relative(beta * flat(strong(NETWORK, COST, X, Y).gradient), hebbian.gradient)

    assert gap(1e4) < 1e-3
    assert 5 < gap(1e3) / gap(1e4) < 15


def test_hebbian_rule_in_closed_form():
    estimate = ep.ContrastiveHebbian(SOLVER)(NETWORK, COST, X, Y)
    free, held = estimate.free.state, jax.tree.map(lambda s: s[0], estimate.nudged.state)
    weight = (jnp.einsum("bi,bj->ij", free[0], free[1]) - jnp.einsum("bi,bj->ij", held[0], held[1])) / len(X)
    assert jnp.abs(estimate.gradient.weights[1] - weight).max() < 1e-12


def test_coupled_learning_descends_the_stiffness_weighted_error():
    # For small eta, (E_c - E_0) / eta is eta / 2 (o - y)^T S (o - y), with S the stiffness seen from the outputs.
    network = ep.FlowNetwork(
        5, [(0, 2), (1, 3), (2, 3), (3, 4), (2, 4)], jnp.arange(1.0, 6.0), driven=[0, 1], outputs=[4]
    )
    inputs, targets = jnp.asarray([[1.0, -0.5]]), jnp.asarray([[0.3]])
    eta, newton = 1e-4, ep.Newton(rtol=1e-13, atol=1e-14)
    coupled = ep.CoupledLearning(newton, eta)(network, COST, inputs, targets)
    truth = ep.ImplicitDifferentiation(newton)(network, COST, inputs, targets)
    state = ep.settle(network, inputs[0], newton).state
    hessian = jax.hessian(network.energy)(state, inputs[0])
    stiffness = 1 / jnp.linalg.inv(hessian)[-1, -1]
    assert relative(coupled.gradient, jax.tree.map(lambda g: stiffness * g, truth.gradient)) < 1e-3


def test_readouts_cannot_be_clamped():
    network = ep.LayeredHopfield([4, 6, 3], key=jax.random.key(0), softmax=True)
    with pytest.raises(Exception, match="Outputs cannot be clamped"):
        ep.ContrastiveHebbian(SOLVER)(network, COST, X, Y)


def test_eta_is_a_fraction():
    with pytest.raises(ValueError, match=r"`CoupledLearning.eta` must lie in \(0, 1\]; got 2"):
        ep.CoupledLearning(SOLVER, 2.0)
