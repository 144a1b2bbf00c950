"""Deep resistive networks: block descent against an active-set oracle (A8), the netlist, implicit gradients."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
import eqprop.circuits as ckt


def oracle(network, x):
    """Primal-dual active set: the exact minimum of the quadratic programme, by dense solves."""
    start = network.initial_state(x)
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    hessian = np.asarray(jax.jit(jax.hessian(lambda s: network.energy(unravel(s), x)))(flat))
    drive = -np.asarray(jax.grad(lambda s: network.energy(unravel(s), x))(flat))
    lower, upper = (np.asarray(jax.flatten_util.ravel_pytree(b)[0]) for b in network.bounds())
    low = high = np.zeros(len(drive), bool)
    for _ in range(100):
        free = ~(low | high)
        s = np.where(low, lower, np.where(high, upper, 0.0))
        s[free] = np.linalg.solve(hessian[np.ix_(free, free)], drive[free] - hessian[np.ix_(free, ~free)] @ s[~free])
        push = drive - hessian @ s
        new_low, new_high = np.where(low, push < 0, s < lower), np.where(high, push > 0, s > upper)
        if (new_low == low).all() and (new_high == high).all():
            return s
        low, high = new_low, new_high
    raise AssertionError("the oracle did not end")


@pytest.mark.parametrize(("hidden", "sweeps", "bar"), [([256], 4, 1e-8), ([128, 128, 128], 12, 1e-10)])
def test_block_descent_reaches_the_exact_minimum(hidden, sweeps, bar):
    network = ckt.DeepResistiveNetwork([784, *hidden, 10], key=jax.random.key(0), input_gain=100.0)
    x = jax.random.uniform(jax.random.key(1), (784,))
    solver = ep.BlockDescent(rtol=1e-14, atol=1e-14, max_steps=sweeps, relaxation=1.0)
    found = ep.settle(network, x, solver, throw=False).state
    truth = oracle(network, x)
    error = np.abs(jax.flatten_util.ravel_pytree(found)[0] - truth).max() / np.abs(truth).max()
    assert error <= bar


@pytest.fixture(scope="module")
def biased():
    network = ckt.DeepResistiveNetwork([3, 6, 4, 2], key=jax.random.key(2), input_gain=50.0)
    currents = tuple(0.1 * jax.random.normal(jax.random.key(k), b.shape) for k, b in enumerate(network.currents))
    return eqx.tree_at(lambda n: n.currents, network, currents)


def test_is_the_netlist_with_ideal_diodes(biased):
    x = jnp.array([0.2, -0.7, 0.5])
    points = ckt.operating_points(biased.circuit().compile(), x[None], ckt.GraphNewton())
    state = ep.settle(biased, x, ep.BlockDescent(rtol=1e-14, atol=1e-14)).state
    np.testing.assert_allclose(jnp.concatenate(state), points.state[0], rtol=1e-10, atol=1e-12)


def test_its_books_are_those_of_the_netlist(biased):
    x = jnp.array([0.2, -0.7, 0.5])
    # Not quite at rest, so that there is something left over.
    state = ep.settle(biased, x, ep.BlockDescent(rtol=1e-3)).state
    ours, theirs = biased.books(state, x), ckt.balance(biased.circuit().compile(), jnp.concatenate(state), x)
    for name in ("kirchhoff", "delivered", "absorbed"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    assert int(ours.worst) == int(theirs.worst)
    assert float(ours.kirchhoff) > 1e-12


@pytest.mark.parametrize("nudge", [ep.Forced, ep.CostNudged])
def test_gradient_is_the_implicit_one(nudge):
    network = ckt.DeepResistiveNetwork([5, 12, 9, 3], key=jax.random.key(3), input_gain=20.0)
    inputs, targets = jax.random.uniform(jax.random.key(4), (6, 5)), jnp.eye(3)[jnp.arange(6) % 3]
    solver = ep.BlockDescent(rtol=1e-11, atol=1e-12)
    estimate = ep.EquilibriumPropagation(ep.symmetric(1e-3), solver, nudge=nudge)(
        network, ep.SquaredError(), inputs, targets
    )
    truth = ep.ImplicitDifferentiation(solver)(network, ep.SquaredError(), inputs, targets)
    found, true = (
        jax.flatten_util.ravel_pytree(eqx.filter(g.gradient, eqx.is_inexact_array))[0] for g in (estimate, truth)
    )
    # Forced nudges of a piecewise quadratic energy are exact; nudging by a conductance is of second order.
    bar = 1e-8 if nudge is ep.Forced else 1e-4
    assert float(jnp.linalg.norm(found - true) / jnp.linalg.norm(true)) <= bar


@pytest.mark.parametrize("share", [3.0, 0.5, -0.5])
def test_strong_conductance_nudges_settle_in_a_few_sweeps(share):
    network = ckt.DeepResistiveNetwork([5, 12, 3], key=jax.random.key(3), input_gain=20.0)
    x, targets, solver = (
        jax.random.uniform(jax.random.key(4), (5,)),
        jnp.eye(3)[0],
        ep.BlockDescent(rtol=1e-10, relaxation=1.0),
    )
    free = ep.settle(network, x, solver)
    # Relative to the smallest conductance at an output: at minus one the output would be unstable.
    beta = share * network.block_curvature()[-1].min()
    nudged = ep.CostNudged(network, ep.SquaredError(), targets, free, beta)
    rest = ep.settle(nudged, x, solver, free=free)
    assert int(rest.steps) <= 20
    slope = jax.grad(nudged.energy)(rest.state, x)
    np.testing.assert_allclose(slope[-1], 0, atol=1e-8)
    inside = rest.state[0] != 0
    np.testing.assert_allclose(slope[0][inside], 0, atol=1e-8)


def test_halves_keep_their_sign():
    network = ckt.DeepResistiveNetwork([4, 7, 2], key=jax.random.key(0))
    hidden = ep.settle(network, jnp.array([1.0, -1.0, 0.3, 0.6]), ep.BlockDescent()).state[0]
    assert bool(jnp.all(hidden[:4] >= 0))
    assert bool(jnp.all(hidden[4:] <= 0))
    assert float(jnp.abs(hidden).max()) > 0.1


def test_errors():
    with pytest.raises(ValueError, match="`sizes` must name inputs and outputs"):
        ckt.DeepResistiveNetwork([3], key=jax.random.key(0))
    with pytest.raises(ValueError, match="`input_gain` must be positive"):
        ckt.DeepResistiveNetwork([3, 2], key=jax.random.key(0), input_gain=-1.0)
    with pytest.raises(ValueError, match="hold 4 numbers; this network has 3 inputs"):
        ep.settle(ckt.DeepResistiveNetwork([3, 2], key=jax.random.key(0)), jnp.ones(4), ep.BlockDescent())
