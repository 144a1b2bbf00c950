import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from tests.bridges.circuits import everything, layered, scattered

from eqprop.bridges.batch import run_batch
from eqprop.bridges.errors import NetlistError
from eqprop.bridges.spice import from_spice, to_spice
from eqprop.settle.base import settle
from eqprop.settle.graph import GraphNewton
from eqprop.substrates.circuit.devices import (
    AntiparallelDiodes,
    IdealDiode,
    PiecewiseLinearDiode,
    ShockleyDiode,
    SpiceDiode,
)
from eqprop.substrates.circuit.errors import FloatingNodeError, NonPassiveError, UnboundedCircuitError, VoltageLoopError
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.quantity import Log

EXACT = GraphNewton(rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("network", [everything(), layered(3, 6, 2, 0), scattered(20, 0)], ids=["all", "layers", "net"])
def test_the_round_trip_is_exact(network):
    """A16: the same circuit to the last bit, hence the same voltages from the same solver."""
    inputs = jnp.linspace(-1.0, 1.0, network.topology.input_size)
    text = to_spice(network, inputs)
    again = from_spice(text).compile()
    assert eqx.tree_equal(network, again)
    assert to_spice(again, inputs) == text
    here, there = (settle(n, inputs, EXACT).state for n in (network, again))
    assert np.array_equal(here, there)


def test_a_sharp_edge_of_the_round_trip():
    # 1 / (1 / g) is not g for these, so the resistances alone would not do.
    values = np.array([g for g in np.linspace(1.5, 2.0, 50) if 1 / (1 / g) != g])
    assert len(values) > 3
    circuit = Circuit()
    n = circuit.nodes("n", len(values))
    circuit.resistors("R", n, circuit.ground, conductance=Log(values))
    circuit.outputs(n)
    network = circuit.compile()
    assert eqx.tree_equal(from_spice(to_spice(network)).compile(), network)


@pytest.mark.parametrize("structure", [True, False])
def test_both_routes_agree_with_ngspice_itself(structure):
    network = everything()
    inputs = jnp.array([0.3, -1.0, 0.7, 0.1])
    (plot,) = run_batch(to_spice(network, inputs, structure=structure))
    ours = network.voltages(settle(network, inputs, EXACT).state, inputs)
    theirs = [plot.vectors[f"v({name.lower()})"][0] for name in network.topology.names[1:]]
    assert np.max(np.abs(ours[1:] - np.array(theirs))) < 1e-12


def test_a_foreign_netlist_is_read():
    text = to_spice(everything(), structure=False)
    again = from_spice(text, outputs=["y0", "y1"], inputs=[f"Vx_{k}" for k in range(8)]).compile()
    inputs = jnp.array([0.3, -1.0, 0.7, 0.1])
    network = everything()
    ours = network.voltage("y", settle(network, inputs, EXACT).state, inputs)
    both = jnp.concatenate([2 * inputs, -2 * inputs])
    assert np.max(np.abs(again.output(settle(again, both, EXACT).state) - ours[:2])) < 1e-14
    assert again.order == ("inputs", "V", "R", "I", "C", "ddiode", "dpair_f", "dpair_r", "A")


def test_an_edited_value_counts():
    network = layered(3, 6, 2, 0)
    text = to_spice(network)
    line = next(line for line in text.splitlines() if line.startswith("RW1_7 "))
    again = from_spice(text.replace(line, " ".join([*line.split()[:-1], "2.5k"]))).compile()
    expected = np.array(network.elements["W1"].conductance.value)
    expected.reshape(-1)[7] = 1 / 2500.0
    assert np.array_equal(again.elements["W1"].conductance.value, expected)
    assert again.elements["W1"].conductance.trainable


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("RW1_7 xp1 h1", "RW1_7 xp2 h1", "`RW1_7` was rewired"),
        ("RW1_7 ", "RW1_700 ", "card `RW1_7` is missing"),
        (".model", "Rextra h0 0 1k\n.model", "`Rextra` was added"),
        ("is=1e-06", "is=2e-06", "model `ddiode` was changed"),
        ('"names"', '"nomes"', "comments of this netlist are damaged"),
    ],
)
def test_edits_that_the_comments_cannot_follow_are_refused(old, new, message):
    text = to_spice(layered(3, 6, 2, 0))
    assert old in text
    with pytest.raises(NetlistError, match=message):
        from_spice(text.replace(old, new))


@pytest.mark.parametrize(
    ("cards", "kind", "message"),
    [
        (
            "V1 a 0 1\nR1 a b 1k\nR2 b 0 1k\nR3 c d 1k",
            FloatingNodeError,
            "Node `c` .and 1 other. has no conducting path",
        ),
        (
            "V1 a 0 1\nR1 a b 1k\nR2 b 0 1k\nR3 c d 1k\nI1 0 c 1m",
            UnboundedCircuitError,
            "Current source `I` feeds node `c`",
        ),
        ("V1 a 0 1\nV2 a 0 2\nR1 a b 1k\nR2 b 0 1k", VoltageLoopError, "loop"),
        ("V1 a 0 1\nR1 a b 1k\nR2 b 0 -500", NonPassiveError, "-0.002 S"),
    ],
)
def test_the_circuits_that_ngspice_solves_in_silence_are_refused(cards, kind, message):
    with pytest.raises(kind, match=message):
        from_spice(f"t\n{cards}\n.end", outputs=["b"]).compile()


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ("R1 a a 1k", "Line 2: `R1` joins node `a` to itself"),
        ("R1 a b 1k\nE1 c 0 a 0 2", "Line 3: `E1` is not half of a bidirectional amplifier"),
        ("R1 a b 1k\nV1 c d 0\nF1 a 0 V1 2", "Line 4: `F1` is not half of a bidirectional amplifier"),
        ("R1 a b 1k\n.model dm d(is=-1)\nD1 a b dm", "Line 3: model `dm`.*must be positive"),
        ("R1 a b 1k\n.options temp=50", "`temp` and `tnom` differ"),
    ],
)
def test_foreign_netlists_that_mean_something_else_are_refused(cards, message):
    with pytest.raises(NetlistError, match=message):
        from_spice(f"t\n{cards}\n.end", outputs=["b"])


def test_what_the_caller_names_must_exist():
    text = "t\nV1 a b 1\nR1 a b 1k\nR2 b 0 1k\n.end"
    with pytest.raises(NetlistError, match=r"Name the nodes to be read.*a, b"):
        from_spice(text)
    with pytest.raises(NetlistError, match="no node `c`"):
        from_spice(text, outputs=["c"])
    with pytest.raises(NetlistError, match="no voltage source `v9`"):
        from_spice(text, outputs=["a"], inputs=["V9"])
    with pytest.raises(NetlistError, match="`V1` must go from a node to ground"):
        from_spice(text, outputs=["a"], inputs=["V1"])


def test_names_that_spice_confounds_are_refused():
    circuit = Circuit()
    n = circuit.node("a") + circuit.node("A")
    circuit.resistors("R", n, circuit.ground, resistance="1k")
    circuit.outputs(n)
    with pytest.raises(ValueError, match="`A` and `a` are one name to SPICE"):
        to_spice(circuit.compile())


def _loaded(device, **compile_options):
    """A device between 0 V and nodes that are driven with various currents, by way of 1 kΩ."""
    circuit = Circuit()
    x = circuit.inputs("x", 6)
    n = circuit.nodes("n", 6)
    circuit.resistors("R", x, n, resistance="1k")
    circuit.diodes("d", n, circuit.ground, device)
    circuit.outputs(n)
    return circuit.compile(**compile_options)


@pytest.mark.parametrize(
    ("device", "close"),
    [
        (SpiceDiode(1e-9, 1.3, minimal_conductance=1e-10), 1e-12),
        (SpiceDiode(1e-9, celsius=60.0), 1e-12),
        (AntiparallelDiodes(SpiceDiode(1e-12)), 1e-12),
        # Reverse current differs by 5 % of 1e-9 A, through 1 kΩ.
        (ShockleyDiode(1e-9), 1e-7),
        (IdealDiode(), 2e-3),
        (PiecewiseLinearDiode("10m", 0.4), 2e-3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_device_means_the_same_in_spice(device, close):
    network = _loaded(device)
    inputs = jnp.array([-3.0, -0.5, -0.05, 0.2, 0.7, 5.0])
    (plot,) = run_batch(to_spice(network, inputs))
    theirs = np.array([plot.vectors[f"v(n{k})"][0] for k in range(6)])
    ours = network.output(settle(network, inputs, EXACT).state)
    assert np.max(np.abs(ours - theirs)) < close
    assert eqx.tree_equal(from_spice(to_spice(network)).compile(), network)


def test_groups_of_different_temperature_and_gmin_share_one_netlist():
    circuit = Circuit()
    x = circuit.inputs("x", 2)
    n = circuit.nodes("n", 2)
    circuit.resistors("R", x, n, resistance="1k")
    circuit.diodes("cold", n, circuit.ground, SpiceDiode(1e-12, celsius=0.0, minimal_conductance=1e-9))
    circuit.diodes("warm", circuit.ground, n, SpiceDiode(1e-12, celsius=80.0, minimal_conductance=1e-6))
    circuit.outputs(n)
    network = circuit.compile()
    inputs = jnp.array([2.0, -2.0])
    (plot,) = run_batch(to_spice(network, inputs))
    theirs = np.array([plot.vectors[f"v(n{k})"][0] for k in range(2)])
    assert np.max(np.abs(network.output(settle(network, inputs, EXACT).state) - theirs)) < 1e-12


def test_nodes_that_only_diodes_hold_are_held_in_spice_too():
    circuit = Circuit()
    x = circuit.inputs("x", 1)
    n = circuit.nodes("n", 1)
    circuit.diodes("d", x, n, ShockleyDiode(1e-12))
    circuit.outputs(n)
    with pytest.warns(UserWarning, match="minimal_conductance"):
        network = circuit.compile(minimal_conductance=1e-9)
    (plot,) = run_batch(to_spice(network, jnp.ones(1)))
    ours = network.output(settle(network, jnp.ones(1), EXACT).state)
    assert abs(ours[0] - plot.vectors["v(n0)"][0]) < 1e-9


def test_inputs_must_fit():
    with pytest.raises(ValueError, match="`inputs` hold 2 numbers; this circuit has 4 inputs"):
        to_spice(everything(), jnp.ones(2))
