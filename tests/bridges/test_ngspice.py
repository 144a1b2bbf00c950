"""Operating points, gradients and transients of ours against those of ngspice."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.bridges.circuits import everything, layered, scattered

from eqprop.bridges.bench import BenchSolver
from eqprop.bridges.compare import compare
from eqprop.bridges.errors import BackendUnavailable, OperatingPointError
from eqprop.bridges.libngspice import SharedNgspice
from eqprop.bridges.ngspice import NgspiceBatchBench, NgspiceBench, NgspiceSolver
from eqprop.bridges.spice import to_spice
from eqprop.bridges.terminals import Terminals
from eqprop.cost import SquaredError
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import ImplicitDifferentiation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.base import settle
from eqprop.settle.graph import GraphNewton
from eqprop.substrates.circuit.devices import SpiceDiode
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.transient import transient
from eqprop.system import CostNudged

# Newton's steps of 1e-9 leave distances of about 1e-18.
EXACT = GraphNewton(rtol=1e-9, atol=1e-10)

# A1: 50 nets from 10 to 500 free nodes; all but a few of the small ones are slow.
SIZES = [10] * 15 + [20] * 10 + [30] * 8 + [50] * 6 + [80] * 4 + [120] * 3 + [250] * 2 + [500] * 2
FAST = {0, 33}
NETS = [pytest.param(n, k, marks=() if k in FAST else pytest.mark.slow, id=f"{n}-{k}") for k, n in enumerate(SIZES)]


@pytest.mark.parametrize(("free", "seed"), NETS)
def test_voltages_equal_those_of_ngspice_free_and_nudged(free, seed):
    """A1: at most 1e-12 V apart (1e-9 V are required)."""
    network = scattered(free, seed)
    inputs = 2 * jax.random.normal(jax.random.key(seed), (2, 3))
    with NgspiceBench(network) as bench:
        assert compare(network, inputs, EXACT, bench=bench).difference < 1e-12
        assert compare(network, inputs, EXACT, bench=bench, nudge=jnp.array([1e-6, -1e-5])).difference < 1e-12


def test_default_tolerances_of_ngspice_are_good_for_a_microvolt():
    """A2."""
    network = layered(4, 8, 3, 0)
    inputs = jax.random.normal(jax.random.key(0), (5, 4))
    with NgspiceBench(network, options={}) as bench:
        assert 0 < compare(network, inputs, EXACT, bench=bench).difference < 1e-6


def test_one_of_everything_equals_ngspice_free_and_nudged():
    network = everything()
    inputs = jax.random.normal(jax.random.key(0), (3, 4))
    nudge = jnp.array([1e-6, -2e-6, 3e-6])
    assert compare(network, inputs, EXACT, nudge=nudge).difference < 1e-12


def _cascade(current_gain):
    """Three crossbars with amplifiers of gain 4 between them."""
    random = np.random.default_rng(3)
    circuit = Circuit()
    nodes = circuit.inputs("x", 3)
    for layer in range(3):
        made = circuit.nodes(f"h{layer}", 3)
        circuit.crossbar(f"W{layer}", nodes, made, conductance=random.uniform(1e-4, 1e-3, (3, 3)), trainable=True)
        circuit.diodes(f"d{layer}", made, circuit.ground, SpiceDiode(1e-7))
        circuit.resistors(f"r{layer}", made, circuit.ground, resistance="5k")
        nodes = made if layer == 2 else circuit.amplifiers(f"a{layer}", made, gain=4.0, current_gain=current_gain)
    circuit.outputs(nodes)
    return circuit.compile()


@pytest.mark.parametrize(
    ("current_gain", "factors"),
    [(None, [256.0, 16.0, 1.0]), pytest.param(4.0, [1.0, 1.0, 1.0], marks=pytest.mark.slow)],
)
def test_amplifiers_weigh_the_layers(current_gain, factors):
    """A7: in ngspice's E and F elements, raw local updates times (A/c)^(L-k) are the true gradient."""
    network = _cascade(current_gain)
    inputs, targets = jax.random.normal(jax.random.key(1), (2, 3)), 0.1 * jnp.ones((2, 3))
    truth = ImplicitDifferentiation(EXACT)(network, SquaredError(), inputs, targets).gradient
    with NgspiceBench(network) as bench:
        assert compare(network, inputs, EXACT, bench=bench).difference < 1e-12
        propagate = EquilibriumPropagation(symmetric(1e-6), NgspiceSolver(bench))
        weighted = propagate(Terminals(network), SquaredError(), inputs, targets)
        unweighted = _raw_update(network, propagate, weighted)
    for layer, factor in enumerate(factors):
        name = f"W{layer}"
        true, raw, whole = (
            np.ravel(tree[name]) for tree in (_conductances(truth), unweighted, _conductances(weighted.gradient))
        )
        # What the library takes for the gradient is the truth,
        assert np.max(np.abs(whole - true)) < 1e-6 * np.max(np.abs(true))
        # and the local quantity alone is too small by the layer's factor.
        assert true @ raw / (raw @ raw) == pytest.approx(factor, rel=1e-4)
        assert true @ raw / np.sqrt((true @ true) * (raw @ raw)) > 1 - 1e-8


def _conductances(gradient):
    return {name: element.conductance.value for name, element in gradient.elements.items() if name.startswith("W")}


def _raw_update(network, propagate, estimate):
    """The contrast of half squared voltage drops, from the readings alone."""
    betas = np.asarray(propagate.stencil.nodes)
    minus, plus = (np.asarray(estimate.nudged.restart[k]) for k in np.argsort(betas))
    found = {}
    for name in ("W0", "W1", "W2"):
        element = network.elements[name]
        drops = [v[:, element.tail.index] - v[:, element.head.index] for v in (plus, minus)]
        found[name] = np.mean(drops[0] ** 2 - drops[1] ** 2, axis=0) / (4 * betas.max())
    return found


def test_a_transient_equals_tran():
    """A13: at most 5e-6 V apart, at the simulator's own times; the co-content falls on its way too."""
    random = np.random.default_rng(0)
    circuit = Circuit()
    x, h, y = circuit.inputs("x", 3, mirrored=True), circuit.nodes("h", 8), circuit.nodes("y", 3)
    circuit.crossbar("W1", x, h, conductance=random.uniform(1e-5, 1e-3, (6, 8)))
    circuit.split("d", h, SpiceDiode(1e-6))
    circuit.crossbar("W2", h, y, conductance=random.uniform(1e-5, 1e-3, (8, 3)))
    circuit.capacitors("c", h + y, circuit.ground, "1n")
    circuit.outputs(y)
    network, inputs = circuit.compile(), jnp.array([1.0, -0.5, 2.0])
    names = [network.topology.name(k) for k in range(11)]
    at_rest = "".join(f".ic v({name})=0\n" for name in names)
    text = to_spice(network, inputs, structure=False, analyses=()).replace(".end\n", f"{at_rest}.end\n")
    with SharedNgspice(text) as simulator:
        simulator.transient(1e-9, 4e-6, max_step=1e-9)
        times = simulator.read("time")
        theirs = np.stack([simulator.read(f"v({name})") for name in names], 1)
    ours = eqx.filter_jit(transient)(network, inputs, jnp.asarray(times))
    assert np.max(np.abs(ours.state - theirs)) < 5e-6
    assert np.max(np.abs(theirs)) > 0.1
    for states in (ours.state, jnp.asarray(theirs)):
        energies = jax.jit(jax.vmap(network.energy, (0, None)))(states, inputs)
        assert np.all(np.diff(energies) <= 1e-15 * np.max(np.abs(energies)))


def test_local_voltages_give_the_gradient_of_the_whole_network():
    """A5, with ngspice as the physical system and nothing but voltages known."""
    network = layered(4, 8, 3, 0)
    inputs, targets = jax.random.normal(jax.random.key(0), (4, 4)), 0.1 * jnp.eye(3)[jnp.array([0, 1, 2, 0])]
    truth = ImplicitDifferentiation(EXACT)(network, SquaredError(), inputs, targets)
    with NgspiceBench(network) as bench:
        propagate = EquilibriumPropagation(symmetric(1e-6), NgspiceSolver(bench))
        known = propagate(Terminals(network), SquaredError(), inputs, targets)
        whole = propagate(network, SquaredError(), inputs, targets)
    assert bool(jnp.all(known.settled))
    assert known.value == pytest.approx(float(truth.value), rel=1e-12)
    for name in ("W1", "W2"):
        true = truth.gradient.elements[name].conductance.value
        for estimate in (known, whole):
            error = np.linalg.norm(estimate.gradient.elements[name].conductance.value - true)
            assert error < 1e-6 * np.linalg.norm(true)


def test_both_routes_answer_the_same():
    network, inputs = layered(2, 4, 2, 0), jnp.array([0.5, -1.0])
    batch = NgspiceSolver(NgspiceBatchBench(network))
    with NgspiceBench(network) as bench:
        for system in (network, Terminals(network)):
            states = [settle(system, inputs, solver).restart for solver in (batch, NgspiceSolver(bench))]
            assert np.max(np.abs(states[0] - states[1])) < 1e-14
    assert np.max(np.abs(settle(network, inputs, EXACT).state - settle(network, inputs, batch).restart)) < 1e-12


def test_parameters_reach_the_simulator_in_place_and_by_reloading():
    circuit = Circuit()
    x = circuit.inputs("x", 2)
    n = circuit.nodes("n", 2)
    circuit.resistors("R", x, n, conductance=[1e-3, 2e-3], trainable=True)
    circuit.norton("N", n, [0.1, 0.2], conductance=1e-4, trainable=True)
    circuit.current_source("I", n, [1e-5, -1e-5], trainable=True)
    circuit.diodes("D", n, circuit.ground, SpiceDiode(1e-8, minimal_conductance=1e-12))
    circuit.outputs(n)
    network = circuit.compile()
    inputs = jnp.array([[1.0, 0.3]])

    def scaled(n):
        return jax.tree.map(lambda leaf: 1.3 * leaf if eqx.is_inexact_array(leaf) else leaf, n)

    with NgspiceBench(network) as bench:
        solver = NgspiceSolver(bench)
        for changed in (network, scaled(network), scaled(scaled(network))):
            state = settle(changed, inputs[0], solver).restart
            assert np.max(np.abs(state - settle(changed, inputs[0], EXACT).state)) < 1e-12
        diode = eqx.tree_at(lambda n: n.elements["D"].device, network, SpiceDiode(1e-6))
    assert compare(diode, inputs, EXACT).difference < 1e-12


def test_a_conductance_of_zero_is_open_and_comes_back():
    circuit = Circuit()
    x = circuit.inputs("x", 1)
    n = circuit.nodes("n", 1)
    circuit.resistors("R", x, n, conductance=0.0, trainable=True)
    circuit.resistors("load", n, circuit.ground, resistance="1k")
    circuit.outputs(n)
    network = circuit.compile()
    on = eqx.tree_at(lambda n: n.elements["R"].device.conductance.value, network, jnp.array([1e-3]))
    with NgspiceBench(network) as bench:
        solver = NgspiceSolver(bench)
        assert abs(settle(network, jnp.ones(1), solver).restart[0]) < 1e-20
        assert settle(on, jnp.ones(1), solver).restart[0] == pytest.approx(0.5, rel=1e-12)


def test_a_singular_circuit_is_not_an_equilibrium():
    circuit = Circuit()
    x = circuit.inputs("x", 1)
    n = circuit.nodes("n", 1)
    circuit.resistors("R", x, n, resistance="1k")
    circuit.resistors("negative", n, circuit.ground, resistance=-1000.0)
    circuit.outputs(n)
    network = circuit.compile(allow_nonconvex=True)
    with NgspiceBench(network) as bench, pytest.raises(OperatingPointError, match="singular at node n0"):
        settle(network, jnp.ones(1), NgspiceSolver(bench))


def test_errors_name_the_remedy():
    network = layered(2, 4, 2, 0)
    with NgspiceBench(network) as bench:
        with pytest.raises(BackendUnavailable, match="already has an ngspice instance open"):
            NgspiceBench(network)
        propagate = EquilibriumPropagation(symmetric(1e-6), BenchSolver(bench), CostNudged)
        with pytest.raises(ValueError, match="use `nudge=Forced`, not `CostNudged`"):
            propagate(Terminals(network), SquaredError(), jnp.ones((1, 2)), jnp.ones((1, 2)))
    with pytest.raises(BackendUnavailable, match="is closed"):
        settle(network, jnp.ones(2), BenchSolver(bench))


def test_terminals_know_what_they_cannot_train():
    circuit = Circuit()
    source = circuit.source("V", 1.0, trainable=True)
    n = circuit.nodes("n", 1)
    circuit.resistors("R", source, n, resistance="1k")
    circuit.resistors("load", n, circuit.ground, resistance="1k")
    circuit.outputs(n)
    with pytest.raises(ValueError, match=r"`V` trains a `VoltageSources`.*Train a `norton` source"):
        Terminals(circuit.compile())
    circuit = Circuit()
    n = circuit.nodes("n", 1)
    circuit.resistors("load", n, circuit.ground, resistance="1k")
    circuit.outputs(n)
    with pytest.raises(ValueError, match="Nothing in this circuit is trained"):
        Terminals(circuit.compile())


def test_an_unsettled_solver_of_ours_is_no_comparison():
    with pytest.raises(RuntimeError, match="did not settle on example 0"):
        compare(layered(2, 4, 2, 0), jnp.ones((1, 2)), GraphNewton(max_steps=1))
