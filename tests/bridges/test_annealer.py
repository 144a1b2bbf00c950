"""Exchange with dimod: the same energies, the same samples, training through any of its samplers."""

import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.bridges.annealer import Annealer, ensemble_of, from_bqm, to_bqm
from eqprop.system import CostNudged, Forced

dimod = pytest.importorskip("dimod")
EDGES = [(0, 2), (1, 2), (1, 3), (2, 4), (3, 4), (2, 3)]


@pytest.fixture
def model(getkey):
    return ep.Ising(2, 3, EDGES, [4], key=getkey(), gain=2.0)


@pytest.mark.parametrize("nudge", [None, CostNudged, Forced])
def test_the_quadratic_model_has_the_energies_of_the_system(model, nudge):
    x, system = jnp.asarray([0.3, -1.0]), model
    if nudge is not None:
        free = ep.settle(model, x, ep.Enumeration(1.0))
        system = nudge(model, ep.SquaredError(), jnp.ones(1), free, jnp.asarray(0.7))
    bqm = to_bqm(system, x)
    states = np.asarray(model.configurations())
    ours = np.asarray([system.energy(jnp.asarray(s), x) for s in states])
    theirs = bqm.energies(states.astype(np.int8))
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], atol=1e-12)


def test_there_and_back(getkey):
    couplings = np.asarray([[0, 0.5, 0], [0.5, 0, -1.2], [0, -1.2, 0]])
    model = ep.ising_from_couplings(couplings, np.asarray([0.1, 0.0, -0.3]))
    again = from_bqm(to_bqm(model, jnp.zeros(0)))
    assert again.edges == model.edges
    np.testing.assert_array_equal(again.coupling, model.coupling)
    np.testing.assert_array_equal(again.field, model.field)
    # A model in 0 and 1 with named variables is read as spins.
    binary = dimod.BinaryQuadraticModel({"a": 1.0, "b": 0.0}, {"ab": -2.0}, 0.0, "BINARY")
    read = from_bqm(binary)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        gap = read.energy(jnp.asarray([2.0 * a - 1, 2.0 * b - 1]), jnp.zeros(0)) - read.energy(
            -jnp.ones(2), jnp.zeros(0)
        )
        assert float(gap) == pytest.approx(binary.energy({"a": a, "b": b}) - binary.energy({"a": 0, "b": 0}), abs=1e-12)


def test_samples_become_an_ensemble(model):
    samples = dimod.SampleSet.from_samples(
        [{0: 1, 1: -1, 2: 1}, {0: -1, 1: -1, 2: 1}], "SPIN", energy=[-1.0, 2.0], num_occurrences=[3, 1]
    )
    ensemble = ensemble_of(model, samples)
    np.testing.assert_array_equal(ensemble.expect(lambda s: s), [0.5, -1.0, 1.0])
    np.testing.assert_array_equal(ensemble.restart, [1.0, -1.0, 1.0])


class Warm(dimod.Sampler):
    """Exact samples at a temperature, by dimod's own energies: a machine with a fixed temperature."""

    properties = None
    parameters = None

    def __init__(self):
        self.starts = []

    def sample(self, bqm, num_reads=1, initial_state=None, **options):
        self.starts.append(initial_state)
        every = dimod.ExactSolver().sample(bqm)
        weights = np.exp(-(every.record.energy - every.record.energy.min()))
        # As often as its probability says, to one part in `num_reads`: no noise of its own.
        counts = np.floor(num_reads * weights / weights.sum()).astype(int)
        counts[np.argmax(counts)] += num_reads - counts.sum()
        return dimod.SampleSet.from_samples(
            (every.record.sample, list(every.variables)), "SPIN", every.record.energy, num_occurrences=counts
        )


def test_an_annealer_gives_gradients_like_any_solver(model):
    inputs, targets = jnp.asarray([[1.0, -1.0], [0.5, 1.0]]), jnp.asarray([[1.0], [-1.0]])
    machine = Warm()
    solver = Annealer(machine, (("num_reads", 100_000),), (("restart", "initial_state"),))
    rule = ep.EquilibriumPropagation(ep.symmetric(0.5), solver, CostNudged)
    estimate = rule(model, ep.SquaredError(), inputs, targets)
    exact = ep.EquilibriumPropagation(ep.symmetric(0.5), ep.Enumeration(1.0), CostNudged)
    truth = exact(model, ep.SquaredError(), inputs, targets)
    ours, theirs = (jax.flatten_util.ravel_pytree(e.gradient)[0] for e in (truth, estimate))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    # Nudged phases are given the best free sample, free ones nothing.
    free, nudged = machine.starts[:2], machine.starts[2:]
    assert free == [None, None]
    assert len(nudged) == 4
    assert all(set(start) == {0, 1, 2} for start in nudged)


def test_what_cannot_be_exchanged_is_refused(model, getkey, monkeypatch):
    with pytest.raises(ValueError, match=r"Only Ising models have a binary quadratic model; got `LayeredHopfield`"):
        to_bqm(ep.LayeredHopfield([2, 2], key=getkey()), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"needs samples of 0 to 2. Sample what `to_bqm` gives"):
        ensemble_of(model, dimod.SampleSet.from_samples([{"a": 1}], "SPIN", energy=[0.0]))
    monkeypatch.setitem(sys.modules, "dimod", None)
    with pytest.raises(ImportError, match=r"pip install 'eqprop\[ising\]'"):
        to_bqm(model, jnp.zeros(2))
