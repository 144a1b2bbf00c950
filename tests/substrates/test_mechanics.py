"""Spring and flow networks against closed forms, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep


def test_two_springs_in_series_share_the_length():
    chain = ep.SpringNetwork(
        np.array([[0.0], [1.0], [2.0]]), [(0, 1), (1, 2)], jnp.asarray([1.0, 3.0]), pinned=[0], driven=[2], outputs=[1]
    )
    state = ep.settle(chain, jnp.asarray([[0.4]]), ep.Newton(rtol=1e-13, atol=1e-13)).state
    assert jnp.allclose(state[0, 0], 1.0 + 0.4 * 3 / 4, atol=1e-12)
    assert jnp.allclose(chain.output(state), 0.3, atol=1e-12)


def test_elastic_energy_does_not_see_rotations():
    places = np.random.default_rng(0).normal(size=(5, 2))
    springs = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3), (2, 4), (0, 4)]
    network = ep.SpringNetwork(places, springs, jnp.ones(8), outputs=[0])
    angle = 0.7
    rotation = jnp.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = jnp.asarray(places) + 0.1 * jax.random.normal(jax.random.key(0), (5, 2))
    none = jnp.zeros((0, 2))
    assert jnp.allclose(network.energy(moved, none), network.energy(moved @ rotation.T + 3.0, none), rtol=1e-12)


def test_a_network_that_floats_is_singular():
    network = ep.SpringNetwork(
        np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]]),
        [(0, 1), (1, 2), (0, 2)],
        jnp.ones(3),
        jnp.full(3, 0.9),
        outputs=[0],
    )
    start = network.initial_state(jnp.zeros((0, 2))) + 0.01
    equilibrium = ep.settle(network, jnp.zeros((0, 2)), ep.Newton(), start=start, throw=False)
    assert not equilibrium.settled or jnp.isfinite(equilibrium.state).all()
    eigenvalues = np.linalg.eigvalsh(
        np.asarray(jax.hessian(lambda s: network.energy(s.reshape(3, 2), jnp.zeros((0, 2))))(start.ravel()))
    )
    assert (np.abs(eigenvalues) < 1e-1).sum() >= 2


def test_pressures_solve_the_graph_laplacian():
    pipes = [(0, 2), (1, 3), (2, 3), (3, 4), (2, 4)]
    conductance = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
    network = ep.FlowNetwork(5, pipes, jnp.asarray(conductance), driven=[0, 1], outputs=[4])
    laplacian = np.zeros((5, 5))
    for (i, j), k in zip(pipes, conductance, strict=True):
        laplacian[[i, j, i, j], [i, j, j, i]] += [k, k, -k, -k]
    driven = np.array([1.0, -2.0])
    exact = np.linalg.solve(laplacian[2:, 2:], -laplacian[2:, :2] @ driven)
    for solver in (ep.Newton(), ep.BlockDescent(rtol=1e-13, atol=1e-14)):
        assert np.allclose(ep.settle(network, jnp.asarray(driven), solver).state, exact, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"springs": [(0, 0)]}, "`springs` must join two different nodes among 0 to 2"),
        ({"springs": []}, "got none"),
        ({"stiffness": jnp.ones(3)}, "`stiffness` must hold one number for each of the 2 edges"),
        ({"pinned": [7]}, "`pinned` must name different nodes among 0 to 2"),
        ({"outputs": [0]}, "are two of these"),
    ],
)
def test_bad_networks_are_refused(change, message):
    arguments = {
        "positions": np.array([[0.0], [1.0], [2.0]]),
        "springs": [(0, 1), (1, 2)],
        "stiffness": jnp.ones(2),
        "pinned": [0],
        "driven": [2],
        "outputs": [1],
    } | change
    with pytest.raises(ValueError, match=message):
        ep.SpringNetwork(**arguments)
