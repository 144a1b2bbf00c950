"""Ising models and samplers of dimod's kind: binary quadratic models out, samples in.

dimod is the common interface of annealers (quantum, digital, simulated). `to_bqm` writes an Ising model, free or
nudged, with its inputs clamped; `from_bqm` reads one; `ensemble_of` makes the samples an ensemble; `Annealer` is all of
it as a solver, so that an annealer trains like any other physics. Needs the extra `eqprop[ising]`.

Source:
    J. Laydevant, D. Markovic and J. Grollier, Training an Ising machine with equilibrium propagation, 2024.
"""

from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eqprop.equilibrium import RESULT, Ensemble
from eqprop.settle.base import Solver
from eqprop.substrates.spins import Ising, ising_from_couplings, nudge_field
from eqprop.system import Nudged, System

if TYPE_CHECKING:
    import dimod

__all__ = ["Annealer", "ensemble_of", "from_bqm", "to_bqm"]


def to_bqm(system: System, inputs: PyTree) -> "dimod.BinaryQuadraticModel":
    """The binary quadratic model of an Ising model, or of a nudged one; variables are the spins 0, 1, ....

    Inputs become fields, and so does the nudge. The model's energy is the system's, an additive constant of the nudge
    apart.

    Raises:
        ValueError: if the system is no Ising model.
        ImportError: if dimod is not installed.
    """
    library = _dimod()
    model, nudges = _unwrapped(system)
    dtype = model.field.dtype
    field = np.array(model.field, np.float64)
    for nudge in nudges:
        places = np.asarray(model.outputs) - model.inputs
        zeros = jnp.zeros(model.field.shape, dtype)

        def energy(outputs, nudge=nudge, places=places, zeros=zeros):
            return nudge.nudge_energy(zeros.at[places].set(outputs))

        field[places] += np.asarray(nudge_field(energy, len(places), dtype))
    clamped = np.ravel(np.asarray(inputs, np.float64))
    quadratic = {}
    for (i, j), value in zip(model.edges, np.asarray(model.coupling, np.float64), strict=True):
        if i < model.inputs:
            field[j - model.inputs] += value * clamped[i]
        else:
            quadratic[i - model.inputs, j - model.inputs] = -float(value)
    return library.BinaryQuadraticModel(dict(enumerate((-field).tolist())), quadratic, 0.0, "SPIN")


def from_bqm(bqm: "dimod.BinaryQuadraticModel") -> Ising:
    """The Ising model of a binary quadratic model; spins in the order of its variables, its offset left out."""
    spin = bqm.spin
    order = {variable: place for place, variable in enumerate(spin.variables)}
    couplings = np.zeros((len(order), len(order)))
    for (u, v), value in spin.quadratic.items():
        couplings[order[u], order[v]] = couplings[order[v], order[u]] = -value
    field = np.asarray([-spin.linear[variable] for variable in order])
    kind = jnp.zeros(()).dtype
    return ising_from_couplings(couplings.astype(kind), field.astype(kind))


def ensemble_of(system: System, sampleset: "dimod.SampleSet") -> Ensemble:
    """The samples of a sampler as an ensemble, each as often as it occurred; the best of them is where to restart.

    Raises:
        ValueError: if there are no samples, or not of this system's spins.
    """
    model, _ = _unwrapped(system)
    count = model.field.shape[0]
    if len(sampleset) == 0 or set(sampleset.variables) != set(range(count)):
        raise ValueError(
            f"The sample set holds {len(sampleset)} samples of the variables "
            f"{sorted(map(str, sampleset.variables))[:5]}...; this model needs samples of 0 to {count - 1}. Sample "
            "what `to_bqm` gives."
        )
    columns = [list(sampleset.variables).index(k) for k in range(count)]
    record = sampleset.record
    rows = np.repeat(np.asarray(record.sample)[:, columns], np.asarray(record.num_occurrences), axis=0)
    states = jnp.asarray(2 * (rows > 0) - 1, model.field.dtype)
    best = jnp.asarray(2 * (np.asarray(record.sample)[np.argmin(record.energy)][columns] > 0) - 1, model.field.dtype)
    groups = max(parts for parts in range(1, 11) if len(rows) % parts == 0)
    zero = jnp.zeros((), model.field.dtype)
    ensemble = Ensemble(states, best, RESULT.settled, zero, jnp.asarray(len(rows), jnp.int32), groups=groups)
    if groups < 2:
        return ensemble
    error = jnp.sqrt(jnp.mean(ensemble.standard_error(lambda s: s) ** 2))
    return eqx.tree_at(lambda e: e.residual, ensemble, error)


class Annealer(Solver):
    """Any sampler of dimod's kind as a solver. It runs outside JAX; temperature and schedule are its own.

    Args:
        sampler: A `dimod.Sampler`: simulated annealing, an exact solver, a machine.
        options: Passed to its `sample` in each phase, `num_reads` for one.
        nudged_options: Further options of nudged phases. With `restart` as a key, the best free sample is passed
            under the name that is its value (`initial_state`, for reverse annealing).
    """

    sampler: "dimod.Sampler" = eqx.field(static=True)
    options: tuple[tuple[str, object], ...] = eqx.field(static=True, default=())
    nudged_options: tuple[tuple[str, object], ...] = eqx.field(static=True, default=())

    host: ClassVar[bool] = True

    def solve(self, system, inputs, start, *, free, key):
        options = dict(self.options)
        if free is not None:
            options |= dict(self.nudged_options)
            name = options.pop("restart", None)
            if name is not None:
                options[str(name)] = dict(enumerate(np.asarray(free.restart, int).tolist()))
        return ensemble_of(system, self.sampler.sample(to_bqm(system, inputs), **options))


def _unwrapped(system):
    nudges = []
    while isinstance(system, Nudged):
        nudges.append(system)
        system = system.system
    if not isinstance(system, Ising):
        raise ValueError(
            f"Only Ising models have a binary quadratic model; got `{type(system).__name__}`. Write it as an `Ising`, "
            "or use `Gibbs`."
        )
    return system, nudges


def _dimod():
    try:
        import dimod
    except ImportError as error:
        raise ImportError("Binary quadratic models need dimod: pip install 'eqprop[ising]'.") from error
    return dimod
