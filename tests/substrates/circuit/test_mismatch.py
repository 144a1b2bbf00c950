"""Circuits as made and not as drawn: all off is the drawing, a key repeats, each part does what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
import eqprop.circuits as ckt
from eqprop.bridges.bench import BenchSolver
from eqprop.bridges.simulated import SimulatedBench
from eqprop.bridges.terminals import Terminals

KEY = jax.random.key(0)
EXACT = ckt.GraphNewton(rtol=1e-9, atol=1e-10)


def drawn(stages=1):
    random = np.random.default_rng(2)
    circuit = ckt.Circuit()
    nodes = circuit.inputs("x", 2, mirrored=True) + circuit.source("bias", [1.0, -1.0])
    for k in range(stages):
        h = circuit.nodes(f"h{k}", 4)
        circuit.crossbar(f"W{k}", nodes, h, conductance=random.uniform(1e-4, 1e-3, (len(nodes), 4)), trainable=True)
        circuit.split(f"d{k}", h, ckt.SpiceDiode(1e-6))
        nodes = circuit.amplifiers(f"a{k}", h, gain=4.0)
    y = circuit.nodes("y", 2)
    circuit.crossbar("out", nodes, y, conductance=random.uniform(1e-4, 1e-3, (4, 2)), trainable=True)
    circuit.outputs(y)
    return circuit


def divider():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 1), circuit.node("y")
    circuit.crossbar("W", x, y, conductance="1m")
    circuit.resistors("load", y, circuit.ground, resistance="1k")
    circuit.outputs(y)
    return circuit


def output(circuit, x=1.0):
    return float(ckt.operating_points(circuit.compile(), jnp.full((1, 1), x)).outputs[0, 0])


def test_all_off_is_the_drawing_and_a_key_repeats():
    circuit = drawn()
    assert ckt.Mismatch().fabricate(KEY, circuit) is circuit
    spread = ckt.Mismatch(saturation_dtod=0.3, emission_dtod=0.1, source_dtod=0.1, amplifier_dtod=0.1)
    x = jnp.array([[1.0, -0.5]])
    one, again, other, ideal = (
        ckt.operating_points(c.compile(), x).voltages
        for c in (
            spread.fabricate(KEY, circuit),
            spread.fabricate(KEY, circuit),
            spread.fabricate(jax.random.key(1), circuit),
            circuit,
        )
    )
    assert (one == again).all()
    for different in (other, ideal):
        assert float(jnp.abs(one - different).max()) > 1e-3


def test_resistance_of_sources_and_lines_is_in_series():
    # 1 kΩ over 1 kΩ, with so much more before it.
    assert output(ckt.Mismatch(source_resistance=500.0).fabricate(KEY, divider())) == pytest.approx(1 / 2.5, rel=1e-12)
    # One crossing: a piece of row before it, a piece of column behind it.
    assert output(ckt.Mismatch(line_resistance=250.0).fabricate(KEY, divider())) == pytest.approx(1 / 2.5, rel=1e-12)


def test_lines_of_a_crossbar_are_those_of_a_netlist_by_hand():
    conductance, ohms = np.array([[1e-3, 2e-3], [3e-3, 4e-3]]), 10.0
    circuit, by_hand = ckt.Circuit(), ckt.Circuit()
    for c in (circuit, by_hand):
        c.inputs("x", 2)
        c.nodes("y", 2)
        c.resistors("load", c.groups["y"], c.ground, resistance="1k")
        c.outputs(c.groups["y"])
    circuit.crossbar("W", circuit.groups["x"], circuit.groups["y"], conductance=conductance)
    x, y = by_hand.groups["x"], by_hand.groups["y"]
    a, b = ([[by_hand.node(f"{side}{i}{j}") for j in range(2)] for i in range(2)] for side in "ab")
    wires = [(x[0:1], a[0][0]), (a[0][0], a[0][1]), (x[1:2], a[1][0]), (a[1][0], a[1][1])]
    wires += [(b[0][0], b[1][0]), (b[1][0], y[0:1]), (b[0][1], b[1][1]), (b[1][1], y[1:2])]
    for k, (tail, head) in enumerate(wires):
        by_hand.resistors(f"wire{k}", tail, head, resistance=ohms)
    for i in range(2):
        for j in range(2):
            by_hand.resistors(f"g{i}{j}", a[i][j], b[i][j], conductance=conductance[i, j])
    inputs = jnp.array([[1.0, -0.3]])
    made, hand = (
        ckt.operating_points(c.compile(), inputs).outputs
        for c in (ckt.Mismatch(line_resistance=ohms).fabricate(KEY, circuit), by_hand)
    )
    np.testing.assert_allclose(made, hand, rtol=1e-13)


def test_spreads_are_as_wide_as_said():
    circuit = ckt.Circuit()
    n = circuit.nodes("n", 4000)
    circuit.diodes("d", n, circuit.ground, ckt.AntiparallelDiodes(ckt.SpiceDiode("1n", 1.5)))
    circuit.source("v", np.full(4000, 2.0))
    made = ckt.Mismatch(saturation_dtod=0.2, emission_dtod=0.05, source_dtod=0.1).fabricate(KEY, circuit).elements
    diode = made["d"].device.diode
    logs = np.log(diode.saturation_current.value)
    assert (logs.mean(), logs.std()) == pytest.approx((np.log(1e-9), 0.2), rel=0.03)
    assert np.std(diode.emission.value) == pytest.approx(0.05 * 1.5, rel=0.05)
    assert np.std(made["v"].voltage.value) == pytest.approx(0.2, rel=0.05)


def test_amplifiers_of_finite_gain():
    made = ckt.Mismatch(open_loop_gain=100.0).fabricate(KEY, drawn()).elements["a0"]
    assert made.gain == pytest.approx([4 / 1.04] * 4, rel=1e-12)
    spread = ckt.Mismatch(amplifier_dtod=0.05)
    assert len(set(spread.fabricate(KEY, drawn()).elements["a0"].gain)) == 4
    with pytest.raises(ckt.InconsistentAmplifierWeights, match="closes a path"):
        spread.fabricate(KEY, drawn(stages=2)).compile()


def gradients(mismatch):
    """Of the drawing's learner on the circuit as made, and the true one of that circuit."""
    circuit, targets = drawn(), 0.1 * jnp.eye(2)
    inputs = jnp.array([[1.0, -0.5], [0.3, 0.8]])
    made = mismatch.fabricate(KEY, circuit).compile()
    bench = SimulatedBench(made, EXACT, terminals=len(circuit.names))
    propagate = ep.EquilibriumPropagation(ep.symmetric(1e-6), BenchSolver(bench))
    found = propagate(Terminals(circuit.compile()), ep.SquaredError(), inputs, targets).gradient
    true = ep.ImplicitDifferentiation(EXACT)(made, ep.SquaredError(), inputs, targets).gradient
    return tuple(
        np.concatenate([np.ravel(g.elements[n].quantities()["conductance"].value) for n in ("W0", "out")])
        for g in (found, true)
    )


def test_learning_in_the_loop_sees_the_circuit_as_made():
    # Diodes and sources are measured with, not assumed: the gradient is that of the circuit as made.
    found, true = gradients(
        ckt.Mismatch(saturation_dtod=0.5, emission_dtod=0.1, source_dtod=0.1, source_resistance=50.0)
    )
    assert np.linalg.norm(found - true) <= 1e-6 * np.linalg.norm(true)


def test_mismatched_amplifiers_turn_the_gradient():
    # What the learner assumes of a layer's common factor is no longer so: the cosine says by how much.
    found, true = gradients(ckt.Mismatch(amplifier_dtod=0.1))
    cosine = found @ true / (np.linalg.norm(found) * np.linalg.norm(true))
    assert 0.98 < cosine < 0.99999


def test_errors():
    with pytest.raises(ValueError, match=r"`Mismatch.source_resistance` must not be negative; got -1"):
        ckt.Mismatch(source_resistance=-1.0)
