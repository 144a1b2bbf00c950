"""Bounds of trained quantities, and the example."""

import importlib.util
from pathlib import Path

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


def test_the_example_learns_exclusive_or():
    path = Path(__file__).parents[3] / "examples" / "xor_circuit.py"
    spec = importlib.util.spec_from_file_location("xor_circuit", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with jax.numpy_dtype_promotion("standard"):  # as a user's session has it
        outputs, targets = example.main(steps=300)
    assert float(jnp.abs(outputs - targets).max()) < 0.05
