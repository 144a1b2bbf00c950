"""Hopfield networks: energies, exact minimisers, the Hebbian rule, colourings."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eqprop as ep
from eqprop.substrates.activation import hard_sigmoid
from eqprop.substrates.graph import colour
from eqprop.system import Forced

ACTIVATIONS = [ep.Linear(), ep.HardSigmoid(), ep.HalfHardSigmoid(), ep.Logistic(), ep.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_an_activation_is_the_minimiser_of_its_potential(activation):
    for drive in (-1.3, -0.2, 0.0, 0.4, 0.97, 1.8):
        lower = max(activation.lower, -0.999 if isinstance(activation, ep.Tanh) else -5.0)
        lower = max(lower, 0.001) if isinstance(activation, ep.Logistic) else lower
        upper = min(activation.upper, 0.999 if isinstance(activation, ep.Tanh | ep.Logistic) else 5.0)
        grid = jnp.linspace(lower, upper, 200_001)
        best = grid[jnp.argmin(activation.potential(grid) - drive * grid)]
        assert abs(jnp.clip(activation(jnp.asarray(drive)), lower, upper) - best) < 1e-4


def test_the_hard_sigmoid_has_slope_one_on_the_closed_interval():
    slope = jax.vmap(jax.grad(hard_sigmoid))
    assert slope(jnp.asarray([-0.1, 0.0, 0.5, 1.0, 1.1])).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    # What JAX's own operations would do, and why they are not used.
    assert jax.grad(lambda x: jnp.clip(x, 0.0, 1.0))(0.0) == 0.5
    assert jax.grad(lambda x: jax.lax.clamp(0.0, x, 1.0))(0.0) == 0.0


def test_a_network_that_starts_at_zero_leaves_it():
    network = ep.LayeredHopfield([6, 10, 4], key=jax.random.key(0))
    for solver in (ep.BlockDescent(), ep.GradientFlow(), ep.FixedPoint()):
        state = ep.settle(network, jnp.ones(6), solver).state
        assert (state[0] > 0).any()
        assert jnp.abs(state[1]).max() > 0.01
    gradient = ep.UnrolledDifferentiation(ep.FixedPoint(), 8)(
        network, ep.SquaredError(), jnp.ones((1, 6)), jnp.ones((1, 4))
    ).gradient
    assert jnp.abs(gradient.weights[0]).max() > 0


def test_the_gradient_is_the_hebbian_rule():
    network = ep.LayeredHopfield([4, 6, 5, 3], key=jax.random.key(0), skips=[(0, 2), (1, 3)])
    inputs, targets = jax.random.uniform(jax.random.key(1), (5, 4)), jnp.eye(3)[jnp.arange(5) % 3]
    beta = 0.1
    estimate = ep.EquilibriumPropagation(ep.symmetric(beta), ep.BlockDescent())(
        network, ep.SquaredError(), inputs, targets
    )
    plus, minus = ((inputs, *(s[k] for s in estimate.nudged.state)) for k in range(2))
    for (i, j), found in zip(network.connections, estimate.gradient.weights, strict=True):
        outer = [jnp.einsum("bi,bj->ij", leg[i], leg[j]) / len(inputs) for leg in (plus, minus)]
        assert jnp.abs(found + (outer[0] - outer[1]) / (2 * beta)).max() < 1e-12
    for layer, found in enumerate(estimate.gradient.biases):
        assert jnp.abs(found + (plus[layer + 1] - minus[layer + 1]).mean(0) / (2 * beta)).max() < 1e-12


@pytest.mark.parametrize("activation", ACTIVATIONS[1:], ids=lambda a: type(a).__name__)
def test_block_minimisers_minimise_their_block(activation):
    network = ep.LayeredHopfield([3, 5, 4, 2], key=jax.random.key(0), activation=activation)
    inputs, state = (
        jnp.asarray([0.2, 0.9, 0.5]),
        ep.settle(
            ep.LayeredHopfield([3, 5, 4, 2], key=jax.random.key(1), activation=activation),
            jnp.ones(3),
            ep.BlockDescent(),
        ).state,
    )
    force = jax.tree.map(lambda s: 0.1 * jnp.ones_like(s), state)
    for block, mask in enumerate(network.blocks()):
        best = network.minimise_block(block, state, inputs, force)

        def tilted(s):
            return network.energy(s, inputs) - sum(jnp.sum(f * u) for f, u in zip(force, s, strict=True))

        for kept, old, new in zip(mask, state, best, strict=True):
            assert kept or (old == new).all()
        slope = jax.grad(tilted)(best)
        for chosen, g, s in zip(mask, slope, best, strict=True):
            inside = (s > activation.lower) & (s < activation.upper)
            assert not chosen or jnp.abs(jnp.where(inside, g, 0)).max() < 1e-9


def test_layers_and_graphs_are_one_and_the_same():
    layered = ep.LayeredHopfield([3, 4, 2], key=jax.random.key(0))
    edges = [(i, 3 + j) for i in range(3) for j in range(4)] + [(3 + i, 7 + j) for i in range(4) for j in range(2)]
    graph = ep.GraphHopfield(3, 6, edges, [7, 8], key=jax.random.key(0))
    weight = jnp.concatenate([layered.weights[0].ravel(), layered.weights[1].ravel()])
    import equinox as eqx

    graph = eqx.tree_at(lambda g: g.weight, graph, weight)
    inputs = jnp.asarray([0.5, 0.1, 0.9])
    a = ep.settle(layered, inputs, ep.BlockDescent(rtol=1e-12, atol=1e-13)).state
    b = ep.settle(graph, inputs, ep.BlockDescent(rtol=1e-12, atol=1e-13)).state
    assert jnp.allclose(a[0], b["hidden"], atol=1e-11)
    assert jnp.allclose(a[1], b["outputs"], atol=1e-11)


@given(st.integers(2, 12), st.data())
def test_colourings_separate_neighbours(count, data):
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda p: p[0] != p[1])
    edges = data.draw(st.lists(pair, max_size=30))
    colours = colour(count, edges)
    assert len(colours) == count
    assert all(colours[i] != colours[j] for i, j in edges)


def test_chains_take_two_colours():
    assert len(set(colour(9, [(i, i + 1) for i in range(8)]))) == 2


def test_forced_nudges_keep_the_curvature_of_the_free_system():
    network = ep.LayeredHopfield([3, 4, 2], key=jax.random.key(0), activation=ep.Tanh())
    free = ep.settle(network, jnp.ones(3), ep.BlockDescent())
    nudged = Forced(network, ep.SquaredError(), jnp.ones(2), free, jnp.asarray(0.3))
    flatten = jax.flatten_util.ravel_pytree
    flat, unravel = flatten(free.state)
    curvature = [jax.hessian(lambda s, n=n: n.energy(unravel(s), jnp.ones(3)))(flat) for n in (network, nudged)]
    assert jnp.abs(curvature[0] - curvature[1]).max() < 1e-13


def test_bad_networks_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`sizes` must name the inputs and at least one layer"):
        ep.LayeredHopfield([4], key=key)
    with pytest.raises(ValueError, match=r"`skips` holds \(1, 1\), which joins no two new layers"):
        ep.LayeredHopfield([4, 3, 2], key=key, skips=[(1, 1)])
    with pytest.raises(ValueError, match="`edges` must join two different nodes"):
        ep.GraphHopfield(2, 3, [(2, 2)], [4], key=key)
    with pytest.raises(ValueError, match="each pair once"):
        ep.GraphHopfield(2, 3, [(2, 3), (3, 2)], [4], key=key)
    with pytest.raises(ValueError, match="`outputs` must name units, nodes 2 to 4"):
        ep.GraphHopfield(2, 3, [(2, 3)], [1], key=key)


def test_energies_are_permutation_invariant():
    network = ep.LayeredHopfield([3, 5, 2], key=jax.random.key(0))
    order = np.random.default_rng(0).permutation(5)
    import equinox as eqx

    shuffled = eqx.tree_at(
        lambda n: (n.weights, n.biases),
        network,
        ((network.weights[0][:, order], network.weights[1][order]), (network.biases[0][order], network.biases[1])),
    )
    inputs = jnp.asarray([0.3, 0.8, 0.1])
    one, other = (ep.settle(n, inputs, ep.BlockDescent(rtol=1e-12, atol=1e-13)).state for n in (network, shuffled))
    assert jnp.allclose(one[0][order], other[0], atol=1e-11)
    assert jnp.allclose(one[1], other[1], atol=1e-11)
