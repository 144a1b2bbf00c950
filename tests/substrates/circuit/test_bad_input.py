"""The table of what can be wrong with a circuit: every row gives its own error, which names node or branch."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop.circuits as ckt


def divider():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 1), circuit.node("y")
    circuit.resistors("top", x, y, resistance="1k")
    circuit.resistors("bottom", y, circuit.ground, resistance="1k")
    circuit.outputs(y)
    return circuit


def test_the_divider_divides():
    assert float(ckt.operating_points(divider().compile(), jnp.array([[3.0]])).outputs[0, 0]) == pytest.approx(
        1.5, rel=1e-14
    )


def test_floating_island():
    circuit = divider()
    a, b = circuit.node("n3"), circuit.node("n4")
    circuit.resistors("loose", a, b, resistance="1k")
    with pytest.raises(
        ckt.FloatingNodeError, match=r"Node `n3` \(and 1 other\) has no conducting path to ground or a source"
    ):
        circuit.compile()


def test_current_source_into_an_island():
    circuit = divider()
    circuit.current_source("i1", circuit.node("n3"), "1m")
    with pytest.raises(ckt.UnboundedCircuitError, match="Current source `i1` feeds node `n3`"):
        circuit.compile()


def test_node_behind_diodes_only():
    circuit = divider()
    circuit.diodes(
        "d1",
        circuit.nodes("y", 1) if "y" not in circuit.groups else circuit.groups["y"],
        circuit.node("z"),
        ckt.ShockleyDiode(),
    )
    with pytest.raises(
        ckt.CircuitError, match=r"Node `z` reaches ground or a source only through diodes.*minimal_conductance"
    ):
        circuit.compile()
    with pytest.warns(ckt.WeaklyGroundedNode, match="Node `z`"):
        circuit.compile(minimal_conductance=1e-12)


def test_parallel_voltage_sources():
    circuit = divider()
    circuit.floating_source("v2", circuit.groups["x"], circuit.ground, 2.0)
    with pytest.raises(ckt.VoltageLoopError, match="Voltage sources `v2`, `x` form a loop: node `x0`"):
        circuit.compile()


def test_loop_of_floating_sources():
    circuit = divider()
    z = circuit.node("z")
    for name, plus, minus in (("v1", z, circuit.groups["y"]), ("v2", z, circuit.groups["y"])):
        circuit.floating_source(name, plus, minus, 1.0)
    with pytest.raises(ckt.VoltageLoopError, match="`v1`, `v2` form a loop"):
        circuit.compile()


def test_negative_conductance():
    circuit = divider()
    circuit.resistors("r2", circuit.groups["y"], circuit.ground, resistance=-500.0)
    with pytest.raises(ckt.NonPassiveError, match=r"Branch 0 of `r2` \(y to 0\) has conductance -0.002 S"):
        circuit.compile()
    network = circuit.compile(allow_nonconvex=True)
    # Millman: (x/1k) / (1/1k + 1/1k - 1/500) does not exist; with -1/400 it does.
    other = divider()
    other.resistors("r2", other.groups["y"], other.ground, resistance=-400.0)
    points = ckt.operating_points(other.compile(allow_nonconvex=True), jnp.array([[1.0]]))
    assert float(points.outputs[0, 0]) == pytest.approx(1e-3 / (2e-3 - 2.5e-3), rel=1e-12)
    with pytest.raises(ckt.SingularCircuitError, match="conductances at node `y` cancel"):
        ckt.operating_points(network, jnp.array([[1.0]]))
    with pytest.raises(ckt.SingularCircuitError, match="conductances at node `y` cancel"):
        ckt.operating_points(network, jnp.array([[1.0]]), ckt.GraphNewton(laplacian=ckt.SuperLU()))
    with pytest.raises(ckt.SingularCircuitError, match="`Dense` or `SuperLU` tells which"):
        ckt.operating_points(network, jnp.array([[1.0]]), ckt.GraphNewton(laplacian=ckt.KLU()))


def test_zero_resistance():
    circuit = divider()
    with pytest.raises(ValueError, match="Resistance of `short` is zero; use one node"):
        circuit.resistors("short", circuit.groups["y"], circuit.ground, resistance=0.0)


def test_infinite_conductance():
    circuit = divider()
    with pytest.raises(ValueError, match="Conductance of `short` is infinite"):
        circuit.resistors("short", circuit.groups["y"], circuit.ground, conductance=np.inf)


def test_nan_names_parameter_and_index():
    circuit = divider()
    g = np.full((1, 3), 1e-3)
    g[0, 2] = np.nan
    with pytest.raises(ValueError, match=r"Conductance of `W` is nan at index \[0, 2\]"):
        circuit.crossbar("W", circuit.groups["y"], circuit.nodes("z", 3), conductance=g)


def test_nan_inputs():
    with pytest.raises(ValueError, match=r"`inputs` holds NaN or infinity, first at index \[1, 0\]"):
        ckt.operating_points(divider().compile(), jnp.array([[1.0], [jnp.nan]]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda c: c.source("v", [1.0, np.inf]), r"Voltage of `v` is inf at index \[1\]"),
        (lambda c: c.current_source("i", c.groups["y"], np.nan), r"Current of `i` is nan"),
        (lambda c: c.capacitors("c", c.groups["y"], c.ground, np.nan), r"Capacitance of `c` is nan"),
        (lambda c: ckt.SpiceDiode(np.nan), r"Fixed is nan"),
        (lambda c: c.amplifiers("a", c.groups["y"], gain=np.nan), r"`gain` of amplifier `a` must be finite"),
        (lambda c: c.amplifiers("a", c.groups["y"], gain=2.0, current_gain=np.inf), r"finite; got 2.0 and inf"),
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build(divider())


def test_nan_in_a_trained_parameter_is_named_before_solving():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 1), circuit.nodes("y", 2)
    circuit.crossbar("W", x, y, conductance="1m", trainable=True)
    circuit.resistors("load", y, circuit.ground, resistance="1k")
    circuit.outputs(y)
    network = eqx.tree_at(lambda n: n.elements["W"].conductance.value, circuit.compile(), jnp.array([[1e-3, jnp.nan]]))
    with pytest.raises(ValueError, match=r"`W.conductance` is nan at index \[0, 1\]; every value"):
        ckt.operating_points(network, jnp.ones((1, 1)))


def test_inputs_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(examples, 1\); got \(2,\)"):
        ckt.operating_points(divider().compile(), jnp.zeros(2))


def buffered(current_gain):
    circuit = divider()
    out = circuit.amplifiers("amp", circuit.groups["y"], gain=4.0, current_gain=current_gain)
    z = circuit.node("z")
    circuit.resistors("load", out, z, resistance="1k")
    circuit.resistors("end", z, circuit.ground, resistance="1k")
    circuit.outputs(z)
    return circuit


@pytest.mark.parametrize("current_gain", [0.0, -0.25])
def test_amplifier_without_backward_current(current_gain):
    with pytest.raises(ckt.NotReciprocalError, match="Amplifier 0 of `amp` has gain 4 and current gain"):
        buffered(current_gain).compile()


def test_amplifier_loop():
    circuit = buffered(0.25)
    circuit.resistors("feedback", circuit.groups["z"], circuit.groups["y"], resistance="1k")
    with pytest.raises(ckt.InconsistentAmplifierWeights, match="closes a path on which the co-content counts"):
        circuit.compile()


def test_transformer_loops_are_fine():
    circuit = buffered(4.0)
    circuit.resistors("feedback", circuit.groups["z"], circuit.groups["y"], resistance="1k")
    assert bool(ckt.operating_points(circuit.compile(), jnp.array([[1.0]])).settled[0])


def test_output_before_an_amplifier():
    circuit = buffered(0.25)
    circuit.outputs(circuit.groups["z"] + circuit.groups["y"])
    with pytest.raises(ckt.InconsistentAmplifierWeights, match="Output node `y` lies before an amplifier"):
        circuit.compile()


def test_ideal_diode_between_free_nodes():
    circuit = divider()
    z = circuit.node("z")
    circuit.resistors("rz", z, circuit.ground, resistance="1k")
    circuit.diodes("d", circuit.groups["y"], z)
    with pytest.raises(ckt.CircuitError, match=r"Ideal diode 0 of `d` \(y to z\) must join one free node to ground"):
        circuit.compile()


def test_conductance_nudge_beyond_the_port():
    network = divider().compile()
    points = ckt.operating_points(network, jnp.ones((1, 1)))
    with pytest.raises(ckt.NudgeTooStrong, match=r"above -0\.002 S only"):
        ckt.check_nudge(-3e-3, network, points.state[0], jnp.ones(1), jnp.ones(1), conductance=True)
    assert ckt.check_nudge(-3e-3, network, points.state[0], jnp.ones(1), jnp.ones(1)) == pytest.approx(1.5)


def test_nudge_below_noise():
    network = divider().compile()
    points = ckt.operating_points(network, jnp.ones((1, 1)))
    with pytest.warns(ckt.WeakNudge, match=r"moves the outputs by 0.0005 V, against 0.001 V.*costs least"):
        ckt.check_nudge(1e-6, network, points.state[0], jnp.ones(1), jnp.ones(1), read_noise=1e-3)


def test_nudge_lost_in_the_rounding_of_float32():
    network = divider().compile()
    state, one = jnp.full(1, 0.5, jnp.float32), jnp.ones(1, jnp.float32)
    with pytest.warns(ckt.WeakNudge, match=r"of noise and rounding\. beta = .* S costs least"):
        ckt.check_nudge(1e-10, network, state, one, one)
    # In float64 the same nudge is far above rounding.
    assert ckt.check_nudge(1e-10, network, state.astype(float), jnp.ones(1), jnp.ones(1)) == pytest.approx(5e-8)


def test_not_converged_names_the_node():
    circuit = divider()
    circuit.diodes("d", circuit.groups["y"], circuit.ground, ckt.SpiceDiode(1e-6))
    solver = ckt.GraphNewton(max_steps=1)
    with pytest.raises(ckt.ConvergenceError, match=r"2 of 2 examples were not solved; example 0 .* node `y`"):
        ckt.operating_points(circuit.compile(), jnp.array([[5.0], [7.0]]), solver)
    points = ckt.operating_points(circuit.compile(), jnp.array([[5.0], [7.0]]), solver, throw=False)
    assert not points.settled.any()


def test_names_and_shapes():
    circuit = divider()
    y = circuit.groups["y"]
    with pytest.raises(ValueError, match='The name "y" is taken'):
        circuit.node("y")
    with pytest.raises(ValueError, match='The name "top" is taken'):
        circuit.resistors("top", y, circuit.ground, resistance=1.0)
    with pytest.raises(ValueError, match='The name "top" is taken'):
        circuit.join("top", y, circuit.node("z9"), gain=2.0)
    with pytest.raises(ValueError, match="`pair` joins 2 nodes to 3"):
        circuit.join("pair", circuit.nodes("p", 2), circuit.nodes("q", 3), gain=2.0)
    with pytest.raises(ValueError, match="`loop` joins node `y` to itself"):
        circuit.resistors("loop", y, y, resistance=1.0)
    with pytest.raises(ValueError, match="Conductance of `W` has shape"):
        circuit.crossbar("W", y, circuit.nodes("z", 3), conductance=np.ones((3, 1)))
    with pytest.raises(ValueError, match="`pairs` joins 2 nodes to 3"):
        circuit.resistors("pairs", circuit.groups["z"][:2], circuit.nodes("w", 3), resistance=1.0)
    with pytest.raises(ValueError, match='"3x" is no name'):
        circuit.node("3x")


def test_empty_circuits():
    with pytest.raises(ValueError, match="has no outputs"):
        ckt.Circuit().compile()
    circuit = ckt.Circuit()
    circuit.outputs(circuit.inputs("x", 1))
    with pytest.raises(ValueError, match="no free node"):
        circuit.compile()


def test_output_held_by_a_source():
    circuit = divider()
    circuit.outputs(circuit.groups["x"])
    with pytest.raises(ValueError, match="Output node `x0` is held by a source"):
        circuit.compile()
