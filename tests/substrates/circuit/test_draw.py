"""Drawings and tables of circuits."""

import jax.numpy as jnp
import numpy as np
import pytest
from tests.circuit_nets import layered

import eqprop.circuits as ckt


def small():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 1), circuit.node("y")
    circuit.resistors("r", x, y, resistance="4.7k")
    circuit.diodes("d", y, circuit.ground, ckt.SpiceDiode(1e-9))
    out = circuit.amplifiers("a", y, gain=4.0)
    z = circuit.node("z")
    circuit.resistors("load", out, z, resistance="1k")
    circuit.norton("n", z, 0.5, conductance="1m")
    circuit.outputs(z)
    return circuit.compile()


def test_a_drawing_names_nodes_and_values(tmp_path):
    ckt.draw(small()).save(str(tmp_path / "circuit.svg"))
    text = (tmp_path / "circuit.svg").read_text()
    for word in ("4.7 kΩ", "1 kΩ", "×4", "500 mV", "x0"):
        assert word in text


def test_large_circuits_are_not_drawn():
    with pytest.raises(ValueError, match="has 262 branches; drawings are for at most 200"):
        ckt.draw(layered(hidden=16, inputs=5))
    circuit = ckt.Circuit()
    n = circuit.nodes("n", 41)
    circuit.resistors("r", n, circuit.ground, resistance="1k")
    circuit.outputs(n[:1])
    with pytest.raises(ValueError, match="has 41 branches; drawings are for at most 40"):
        ckt.draw(circuit.compile())


def test_crossbars_have_a_resistor_at_every_crossing_that_conducts():
    circuit = ckt.Circuit()
    x, h, y = circuit.inputs("x", 3), circuit.nodes("h", 2), circuit.nodes("y", 2)
    circuit.crossbar("W1", x, h, conductance=np.array([[1e-3, 2e-3], [3e-3, 0.0], [1e-3, 1e-3]]))
    circuit.split("d", h, ckt.SpiceDiode(1e-6))
    circuit.crossbar("W2", h, y, conductance=np.full((2, 2), 1e-3))
    circuit.outputs(y)
    kinds = [type(part).__name__ for part in ckt.draw(circuit.compile()).elements]
    assert kinds.count("Resistor") == 9
    assert kinds.count("Diode") == kinds.count("Ground") == 2
    # A line for each source, hidden and output node.
    assert kinds.count("Line") == 7


def test_tables():
    network, x = small(), jnp.array([1.0])
    points = ckt.operating_points(network, x[None])
    rows = ckt.voltage_table(network, x, {"free": points.state[0], "nudged": points.state[0] + 0.5})
    assert [row["node"] for row in rows] == ["x0", "y", "a0", "z"]
    assert rows[0]["free"] == rows[0]["nudged"] == 1.0
    assert float(rows[2]["nudged"]) - float(rows[2]["free"]) == pytest.approx(2.0)
    table = ckt.power_table(network, points.state[0], x)
    assert table["dissipated power"] == table["delivered power"]
    assert table["dissipated power"].endswith("W")
