import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from tests.bridges.circuits import layered

from eqprop.bridges.bench import BenchSolver, Capabilities, settings_of
from eqprop.bridges.errors import BenchError, LimitError
from eqprop.bridges.record import Recorder, Replay
from eqprop.bridges.safety import SafeBench
from eqprop.bridges.simulated import SimulatedBench
from eqprop.bridges.terminals import Terminals
from eqprop.cost import SquaredError
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.base import settle
from eqprop.settle.graph import GraphNewton
from eqprop.system import System

EXACT = GraphNewton(rtol=1e-9, atol=1e-10)
NETWORK = layered(2, 4, 2, 0)
INPUTS = jnp.array([[0.5, -1.0], [1.0, 0.2]])
TARGETS = jnp.array([[0.1, 0.0], [0.0, 0.1]])


class Fake:
    """A bench that answers from a script: arrays, or exceptions to raise."""

    def __init__(self, answers, **able):
        self.answers = list(answers)
        self.capabilities = Capabilities(terminals=2, outputs=2, **able)
        self.written = []

    def set_parameters(self, parameters):
        self.written.append(parameters)

    def apply(self, inputs, nudge):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.answers = []


class _Pair(System):
    """Two springs; the bench, not the energy, decides where they rest."""

    stiffness: Float[Array, " spring"]

    def energy(self, state, inputs):
        return 0.5 * jnp.sum(self.stiffness * state**2)

    def initial_state(self, inputs):
        return jnp.zeros(2)


def _gradient(bench, beta=1e-6, **options):
    propagate = EquilibriumPropagation(symmetric(beta), BenchSolver(bench, **options))
    return propagate(Terminals(NETWORK), SquaredError(), INPUTS, TARGETS)


def _vector(estimate):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(estimate.gradient)])


def test_a_simulated_bench_gives_the_gradient_of_its_network():
    truth = EquilibriumPropagation(symmetric(1e-6), EXACT)(NETWORK, SquaredError(), INPUTS, TARGETS)
    found = _gradient(SimulatedBench(NETWORK, EXACT))
    assert np.linalg.norm(_vector(found) - _vector(truth)) < 1e-8 * np.linalg.norm(_vector(truth))
    assert found.value == pytest.approx(float(truth.value), rel=1e-12)


def test_a_constant_offset_of_the_readings_and_repeated_noisy_readings():
    exact = _vector(_gradient(SimulatedBench(NETWORK, EXACT), 1e-4))

    def error(repeats):
        noisy = SimulatedBench(NETWORK, EXACT, read_noise=1e-6, seed=1)
        estimate = _gradient(noisy, 1e-4, repeats=repeats)
        return np.linalg.norm(_vector(estimate) - exact) / np.linalg.norm(exact), float(estimate.free.residual[0])

    (one, silent), (many, spread) = error(1), error(64)
    # Errors of independent readings fall as the root of their number: an eighth.
    assert 1 / 16 < many / one < 1 / 4
    assert silent == 0.0
    # Standard error of a mean of 64 readings, over all nodes but ground.
    assert spread == pytest.approx(1e-6 / 8, rel=0.2)
    # An offset is the same in both phases, and multiplies the displacement alone.
    offset = _vector(_gradient(SimulatedBench(NETWORK, EXACT, offset=1e-3), 1e-4))
    assert 1e-6 < np.linalg.norm(offset - exact) / np.linalg.norm(exact) < 0.1


def test_a_bench_is_asked_again_and_in_the_end_given_up():
    reading = np.array([0.0, 1.0])
    system = _Pair(jnp.ones(2))
    for hiccup in (BenchError("busy"), TimeoutError("late"), np.array([0.0, np.nan])):
        solver = BenchSolver(Fake([hiccup, reading]))
        assert settle(system, jnp.zeros(1), solver).restart.tolist() == [0.0, 1.0]
    with pytest.raises(BenchError, match="failed 3 times in a row; the last time: Terminal 1 read nan"):
        settle(system, jnp.zeros(1), BenchSolver(Fake([np.array([0.0, np.nan])] * 3)))
    with pytest.raises(BenchError, match="announced 2 terminals and read an array of shape"):
        settle(system, jnp.zeros(1), BenchSolver(Fake([np.zeros(3)])))
    with pytest.raises(ValueError, match="`repeats` must be at least 1"):
        BenchSolver(Fake([]), repeats=0)


def test_faults_of_a_simulated_bench_are_survived():
    clean = _vector(_gradient(SimulatedBench(NETWORK, EXACT)))
    faulty = _vector(_gradient(SimulatedBench(NETWORK, EXACT, fault_rate=0.2), retries=20))
    assert np.array_equal(clean, faulty)
    with pytest.raises(BenchError, match=r"failed 1 times in a row; .*dropped"):
        _gradient(SimulatedBench(NETWORK, EXACT, fault_rate=0.9), retries=0)


def test_what_a_bench_cannot_do_is_refused():
    able = SimulatedBench(NETWORK, EXACT)
    able.capabilities = dataclasses.replace(able.capabilities, signed_nudge=False)
    with pytest.raises(ValueError, match="cannot pull outputs down"):
        _gradient(able)
    able.capabilities = dataclasses.replace(able.capabilities, outputs=5)
    with pytest.raises(ValueError, match="has 2 forces; this bench can nudge 5 outputs"):
        _gradient(able)


def test_a_device_whose_parameters_are_fixed_is_not_written_to():
    bench = Fake([np.zeros(2)], writable=False)
    settle(_Pair(jnp.ones(2)), jnp.zeros(1), BenchSolver(bench))
    assert bench.written == []
    bench = Fake([np.zeros(2)])
    settle(_Pair(jnp.ones(2)), jnp.zeros(1), BenchSolver(bench))
    assert [list(w) for w in bench.written] == [["stiffness"]]


def test_settings_are_physical_values_by_name():
    settings = settings_of(Terminals(NETWORK))
    assert list(settings) == ["W1.conductance", "W2.conductance"]
    assert np.array_equal(settings["W1.conductance"], NETWORK.elements["W1"].conductance.value)


def test_limits_are_kept():
    bench = Fake(
        [np.zeros(2)] * 3, parameter_limits={"g": (0.0, 1.0)}, input_limits=(-1.0, 1.0), nudge_limits=(-1e-3, 1e-3)
    )
    safe = SafeBench(bench)
    safe.set_parameters({"g": np.array([-0.1, 0.5, 2.0]), "free": np.array([9.0])})
    assert bench.written[0]["g"].tolist() == [0.0, 0.5, 1.0]
    assert bench.written[0]["free"].tolist() == [9.0]
    assert safe.clamped == 2
    safe.apply(np.array([1.0]), np.array([1e-3, -1e-3]))
    with pytest.raises(LimitError, match=r"Input 1 is 1.5, outside of .-1, 1.; nothing was applied. Scale the data"):
        safe.apply(np.array([0.0, 1.5]), None)
    with pytest.raises(LimitError, match="Nudging force 0 is nan"):
        safe.apply(np.array([0.0]), np.array([np.nan, 0.0]))
    with pytest.raises(LimitError, match="`g` holds NaN"):
        safe.set_parameters({"g": np.array([np.nan])})
    assert len(bench.answers) == 2
    assert len(bench.written) == 1


def test_a_session_is_replayed_without_the_bench(tmp_path):
    path = tmp_path / "session.jsonl"
    recorder = Recorder(SimulatedBench(NETWORK, EXACT, read_noise=1e-5, fault_rate=0.2, seed=3), path)
    first = _vector(_gradient(recorder, retries=20))
    recorder.close()
    replay = Replay(path)
    assert replay.capabilities == Capabilities(terminals=len(NETWORK.topology.names), outputs=2, read_noise=1e-5)
    assert np.array_equal(_vector(_gradient(replay, retries=20)), first)
    with pytest.raises(BenchError, match="The recording ends after"):
        replay.apply(np.zeros(2), None)
    with pytest.raises(BenchError, match=r"another `W1.conductance`"):
        Replay(path).set_parameters({"W1.conductance": np.zeros((6, 4))})
    with pytest.raises(BenchError, match="different command"):
        Replay(path).apply(np.zeros(2), None)
    with pytest.raises(ValueError, match="exists; recordings are not overwritten"):
        Recorder(Fake([]), path)
    (tmp_path / "other").write_text("hello")
    with pytest.raises(ValueError, match="is not a recording"):
        Replay(tmp_path / "other")


def test_a_simulated_bench_checks_its_settings():
    with pytest.raises(ValueError, match="`fault_rate` must lie in"):
        SimulatedBench(NETWORK, EXACT, fault_rate=1.0)
    with pytest.raises(BenchError, match="did not settle"):
        SimulatedBench(NETWORK, GraphNewton(max_steps=1)).apply(np.ones(2), None)
    with pytest.raises(ValueError, match=r"no quantity `W9.conductance`"):
        SimulatedBench(NETWORK, EXACT).set_parameters({"W9.conductance": np.ones(2)})
