"""What every solver and every estimator must do, whatever it is: one row each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import eqprop as ep

SOLVERS = [
    ep.Newton(),
    ep.GradientFlow(0.3),
    ep.AdaptiveGradientFlow(),
    ep.FixedPoint(),
    ep.BlockDescent(),
]
NETWORK = ep.LayeredHopfield([3, 5, 2], key=jax.random.key(0), activation=ep.Tanh())
X, Y = jax.random.uniform(jax.random.key(1), (4, 3)), jnp.eye(2)[jnp.arange(4) % 2]
ESTIMATORS = [
    ep.EquilibriumPropagation(ep.symmetric(0.05), ep.BlockDescent()),
    ep.EquilibriumPropagation(ep.one_sided(0.05), ep.FixedPoint(), nudge=ep.CostNudged),
    ep.ContrastiveHebbian(ep.BlockDescent()),
    ep.CoupledLearning(ep.BlockDescent(), eta=0.1),
    ep.ImplicitDifferentiation(ep.Newton()),
    ep.UnrolledDifferentiation(ep.BlockDescent(), 30),
    ep.FiniteDifference(ep.Newton()),
]


def single(tree):
    """The same tree in single precision."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, tree)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_solver_keeps_the_contract(solver):
    alone = ep.settle(NETWORK, X[0], solver)
    jitted = eqx.filter_jit(lambda n, x, s: ep.settle(n, x, s))(NETWORK, X[0], solver)
    batched = jax.vmap(lambda x: ep.settle(NETWORK, x, solver))(X)
    for a, b, c in zip(*(jax.tree.leaves(e.state) for e in (alone, jitted, batched)), strict=True):
        assert a.dtype == jnp.float64
        assert jnp.allclose(a, b, atol=1e-12)
        assert jnp.allclose(a, c[0], atol=1e-9)
    assert batched.settled.shape == batched.steps.shape == batched.residual.shape == (4,)
    assert jax.tree.structure(alone.restart) == jax.tree.structure(NETWORK.initial_state(X[0]))
    assert jnp.allclose(alone.expect(lambda s: s[1].sum()), alone.state[1].sum())
    again = ep.settle(NETWORK, X[0], solver, start=alone.state)
    assert again.steps <= alone.steps


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_solver_follows_the_precision_of_its_inputs(solver):
    loose = eqx.tree_at(lambda s: (s.rtol, s.atol), solver, (1e-4, 1e-5))
    equilibrium = ep.settle(single(NETWORK), X[0].astype(jnp.float32), single(loose))
    assert {leaf.dtype for leaf in jax.tree.leaves(equilibrium.state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_an_estimator_keeps_the_contract(estimator):
    estimate = estimator(NETWORK, ep.SquaredError(), X, Y)
    parameters = eqx.filter(NETWORK, eqx.is_inexact_array)
    assert jax.tree.structure(estimate.gradient) == jax.tree.structure(parameters)
    for gradient, parameter in zip(jax.tree.leaves(estimate.gradient), jax.tree.leaves(parameters), strict=True):
        assert gradient.shape == parameter.shape
        assert gradient.dtype == parameter.dtype
        assert jnp.isfinite(gradient).all()
    assert estimate.outputs.shape == (4, 2)
    assert estimate.settled.tolist() == [True] * 4
    free = jax.vmap(lambda x: ep.settle(NETWORK, x, ep.Newton()).state[-1])(X)
    assert jnp.allclose(estimate.outputs, free, atol=1e-4)
    assert jnp.allclose(estimate.value, 0.5 * jnp.mean(jnp.sum((free - Y) ** 2, axis=1)), atol=1e-4)
