"""Bounds of trained quantities, and the example."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqprop.circuits as ckt


def test_projection_keeps_to_the_bounds_of_each_quantity():
    circuit = ckt.Circuit()
    x, y = circuit.source("x", 1.0, trainable=True), circuit.nodes("y", 3)
    circuit.resistors("r", x, y, conductance=[1e-3, 2e-3, 3e-3], trainable=True, bounds=("1.5m", "2.5m"))
    circuit.outputs(y)
    network = circuit.compile()
    moved = jax.tree.map(lambda leaf: leaf - 1.0 if leaf.shape == (1,) else leaf, network)
    projected = ckt.project(moved)
    assert ckt.at_bounds(projected) == 2
    inside = eqx.tree_at(lambda n: n.elements["r"].device.conductance.value, network, jnp.full(3, 2e-3))
    assert ckt.at_bounds(inside) == 0
    np.testing.assert_allclose(projected.elements["r"].device.conductance.value, [1.5e-3, 2e-3, 2.5e-3])
    np.testing.assert_allclose(projected.elements["x"].voltage.value, [0.0])
    assert eqx.tree_equal(ckt.project(projected), projected)
