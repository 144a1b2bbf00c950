"""Laws that hold for every choice of units and names."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.systems import Springs

import eqprop as ep

NEWTON = ep.Newton(rtol=1e-12, atol=1e-13)
PIPES = [(0, 2), (1, 3), (2, 3), (3, 4), (2, 4)]


@settings(max_examples=10)
@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_gradients_carry_the_units_of_cost_over_parameter(length, force):
    # Lengths scaled by `length`, forces by `force`: stiffness scales as force / length, the cost as length squared.
    k, x, y = jnp.asarray([1.0, 3.0]), jnp.asarray([[0.5, 0.2]]), jnp.asarray([[0.3, -0.1]])
    rule = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON)
    plain = rule(Springs(k), ep.SquaredError(), x, y).gradient.stiffness
    scaled = rule(Springs(k * force / length), ep.SquaredError(), x * force, y * length).gradient.stiffness
    assert jnp.allclose(scaled, plain * length**2 / (force / length), rtol=1e-9)


@settings(max_examples=10)
@given(st.floats(-5.0, 5.0))
def test_pressures_are_told_up_to_a_common_level(level):
    network = ep.FlowNetwork(5, PIPES, jnp.arange(1.0, 6.0), driven=[0, 1], outputs=[4])
    inputs = jnp.asarray([1.0, -2.0])
    low, high = (ep.settle(network, x, NEWTON).state for x in (inputs, inputs + level))
    assert jnp.allclose(high, low + level, atol=1e-10)


@settings(max_examples=2)
@given(st.permutations(range(3)))
def test_names_of_free_nodes_do_not_matter(order):
    place = {0: 0, 1: 1} | {2 + i: 2 + j for i, j in enumerate(order)}
    renamed = [(place[i], place[j]) for i, j in PIPES]
    conductance, inputs, targets = jnp.arange(1.0, 6.0), jnp.asarray([[1.0, -2.0]]), jnp.asarray([[0.2]])
    rule = ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON)
    one, other = (
        rule(
            ep.FlowNetwork(5, pipes, conductance, driven=[0, 1], outputs=[out]), ep.SquaredError(), inputs, targets
        ).gradient.conductance
        for pipes, out in ((PIPES, 4), (renamed, place[4]))
    )
    assert jnp.allclose(one, other, rtol=1e-9)


def test_the_order_of_examples_does_not_matter():
    system = Springs(jnp.asarray([1.0, 3.0]))
    inputs, targets = jax.random.normal(jax.random.key(0), (6, 2)), jax.random.normal(jax.random.key(1), (6, 2))
    rows = np.array([3, 1, 5, 0, 4, 2])
    rule = ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON)
    one = rule(system, ep.SquaredError(), inputs, targets)
    other = rule(system, ep.SquaredError(), inputs[rows], targets[rows])
    assert jnp.allclose(one.gradient.stiffness, other.gradient.stiffness, rtol=1e-12)
    assert eqx.tree_equal(jax.tree.map(lambda leaf: leaf[rows], one.outputs), other.outputs)
