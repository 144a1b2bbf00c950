"""Drawings and tables of circuits."""

import jax.numpy as jnp
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
    with pytest.raises(ValueError, match="has 118 branches; drawings are for at most 40"):
        ckt.draw(layered())


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
