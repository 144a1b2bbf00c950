"""Newton's method on a graph against the general one, and its linear solvers against each other."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.circuit_nets import cascade, layered

import eqprop as ep
import eqprop.circuits as ckt
from eqprop.settle.laplacian import independent_set

X = jnp.array([1.0, -2.0, 0.5, 0.3])


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(None, marks=pytest.mark.slow),
        ckt.IdealDiode(),
        pytest.param(ckt.PiecewiseLinearDiode(1e-2, 0.1), marks=pytest.mark.slow),
        ckt.ShockleyDiode(1e-9, 2.0),
        pytest.param(ckt.AntiparallelDiodes(), marks=pytest.mark.slow),
    ],
    ids=lambda d: type(d).__name__,
)
def test_agrees_with_the_general_newton(device):
    network = layered(device=device, drive=3.0)
    truth = ep.settle(network, X, ep.Newton(rtol=1e-12, atol=1e-13))
    found = ep.settle(network, X, ckt.GraphNewton())
    np.testing.assert_allclose(found.state, truth.state, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "drive", [pytest.param(0.1, marks=pytest.mark.slow), 3.0, pytest.param(20.0, marks=pytest.mark.slow)]
)
def test_iterations_grow_slowly_with_the_drive(drive):
    network = layered(drive=drive, hidden=32)
    inputs = jax.random.normal(jax.random.key(2), (32, 4))
    points = ckt.operating_points(network, inputs, ckt.GraphNewton())
    assert bool(points.settled.all())
    assert int(points.steps.max()) <= 17


def ladder(size):
    """A chain of resistors with diodes: sparse, and its independent set half of it."""
    circuit = ckt.Circuit()
    x, n = circuit.inputs("x", 1), circuit.nodes("n", size)
    circuit.resistors("first", x, n[:1], resistance="1k")
    circuit.resistors("chain", n[:-1], n[1:], resistance="1k")
    circuit.resistors("leak", n, circuit.ground, resistance="100k")
    circuit.diodes("d", n, circuit.ground, ckt.SpiceDiode(1e-9))
    circuit.outputs(n[-1:])
    return circuit.compile()


def solvers():
    known = [ckt.SuperLU()]
    if importlib.util.find_spec("klujax"):
        known.append(ckt.KLU())
    return known


@pytest.mark.parametrize("solver", solvers(), ids=lambda s: type(s).__name__)
def test_sparse_solvers_agree_with_the_dense_one(solver):
    network = ladder(41)
    inputs = jnp.array([[5.0], [-2.0]])
    dense = ckt.operating_points(network, inputs, ckt.GraphNewton())
    sparse = ckt.operating_points(network, inputs, ckt.GraphNewton(laplacian=solver))
    np.testing.assert_allclose(sparse.voltages, dense.voltages, rtol=0, atol=1e-13)


def test_thousands_of_nodes_are_solved_sparsely():
    network, inputs = ladder(3000), jnp.array([[5.0]])
    found = [ckt.operating_points(network, inputs, ckt.GraphNewton(laplacian=solver)) for solver in solvers()]
    for points in found:
        assert float(points.balance.kirchhoff[0]) <= 1e-12
        assert float(jnp.abs(points.balance.tellegen[0])) <= 1e-10
    np.testing.assert_allclose(found[0].voltages, found[-1].voltages, rtol=0, atol=1e-12)
    # From the input on the voltage falls, node by node.
    assert bool(jnp.all(jnp.diff(found[0].state[0, :50]) < 0))


def test_without_klujax_or_float64_the_sparse_solver_is_scipys(monkeypatch):
    assert isinstance(ckt.sparse_direct(), type(solvers()[-1]))
    with jax.enable_x64(False):
        assert isinstance(ckt.sparse_direct(), ckt.SuperLU)
    with pytest.raises(ValueError, match="`KLU` computes in float64 only"):
        ep.settle(ladder(3), jnp.ones(1, jnp.float32), ckt.GraphNewton(laplacian=ckt.KLU()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(ckt.sparse_direct(), ckt.SuperLU)


def test_the_independent_set_has_no_neighbours():
    network = ladder(41)
    edges = network.edges()
    chosen = independent_set(edges, 41)
    assert len(chosen) == 21
    for part in edges:
        assert not (np.isin(part.tail, chosen) & np.isin(part.head, chosen)).any()


def test_one_hidden_layer_leaves_only_the_outputs():
    network = layered(hidden=50)
    assert len(network.topology.units) - len(independent_set(network.edges(), 53)) == 3


def test_conductance_nudges_and_clamps_are_solved_too():
    network, cost = layered(), ep.SquaredError()
    free = ep.settle(network, X, ckt.GraphNewton())
    nudged = ep.CostNudged(network, cost, jnp.ones(3), free, jnp.asarray(1e-3))
    truth = ep.settle(nudged, X, ep.Newton(rtol=1e-12, atol=1e-13))
    np.testing.assert_allclose(ep.settle(nudged, X, ckt.GraphNewton()).state, truth.state, atol=1e-13)


@pytest.mark.parametrize(
    "steps", [{}, {"shunts": (), "ramps": tuple(0.05 * k for k in range(1, 20))}], ids=["gmin", "sources"]
)
def test_stepping_rescues_a_solver_that_gives_up(steps):
    network = layered(drive=20.0)
    short = ckt.GraphNewton(max_steps=8)
    direct = ep.settle(network, X, short, throw=False)
    rescued = ep.settle(network, X, ckt.Stepped(short, **steps))
    assert not bool(direct.settled)
    truth = ep.settle(network, X, ckt.GraphNewton())
    np.testing.assert_allclose(rescued.state, truth.state, atol=1e-9)


def test_other_systems_are_refused():
    with pytest.raises(ValueError, match="`GraphNewton` needs a `GraphSystem`"):
        ep.settle(ckt.DeepResistiveNetwork([2, 2], key=jax.random.key(0)), jnp.ones(2), ckt.GraphNewton())


def test_cascade_agrees():
    network = cascade()
    truth = ep.settle(network, jnp.array([1.0, -0.5]), ep.Newton(rtol=1e-12, atol=1e-13))
    found = ep.settle(network, jnp.array([1.0, -0.5]), ckt.GraphNewton())
    np.testing.assert_allclose(found.state, truth.state, atol=1e-14)
