"""Other rest states: how many there are for one input, which of them is in use, and whether nudges keep to it."""

import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from eqprop.gradient.estimate import batch_size
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.settle.base import Solver
from eqprop.settle.branches import Branches, branches, held
from eqprop.train.experiment import Experiment
from eqprop.train.report.section import Section

__all__ = ["other_rest_states"]

STARTS = 24


def other_rest_states(
    experiment: Experiment,
    solver: Solver,
    inputs: PyTree,
    targets: PyTree,
    answer: Callable[[PyTree], Int[Array, ""]],
    *,
    period: float,
) -> Section:
    """Restarts of a few examples from random phases, beside the state that training settles to.

    Args:
        experiment: With the trained system.
        solver: Settles freely, closely.
        inputs: Of the examples.
        targets: Of the examples.
        answer: Of the output: what is read off it.
        period: Of the state's entries.
    """
    system, propagate = experiment.system, experiment.propagate
    assert isinstance(propagate, EquilibriumPropagation)
    estimate = propagate(system, experiment.cost, inputs, targets)
    legs = np.asarray(held(system, inputs, solver, estimate.free, estimate.nudged, period=period))
    kept = np.atleast_1d(legs.all(axis=0))
    rows, alone = [], 0
    for k in range(batch_size(inputs)):
        x, home = (jax.tree.map(lambda leaf, k=k: leaf[k], tree) for tree in (inputs, estimate.free.restart))
        found = branches(system, x, solver, _random(system.initial_state(x), jax.random.key(k)), period=period)
        read = jax.vmap(lambda state: answer(system.output(state)))
        same = np.asarray(read(found.states)) == int(answer(system.output(home)))
        share = found.counts[same].sum() / max(found.counts.sum(), 1)
        rows.append((str(k), *_place(found, home), f"{share:.0%}", "yes" if kept[k] else "NO"))
        alone += len(found.counts) == 1
    heads = ("example", "rest states found", "in use", "above the lowest", "starts that end there")
    text = (
        f"Each of the first {len(rows)} held-out examples, settled from {STARTS} random states besides the one that "
        "training starts from. The gradient is that of the rest state in use, and right as long as the nudged phases, "
        f"let go, fall back to it: {int(kept.sum())} of {len(kept)} do. {alone} of {len(kept)} have no other rest "
        "state among those found."
    )
    table = ((*heads, "starts with the same answer", "nudges keep to it"), *rows)
    return Section("Other rest states", text, table=table)


def _random(state, key):
    leaves, shape = jax.tree.flatten(state)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.uniform(k, (STARTS, *leaf.shape), leaf.dtype, -math.pi, math.pi)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(shape, drawn)


def _place(found: Branches, home: PyTree):
    """How many there are; of the one in use its number, energy above the lowest, share of the starts."""
    used, count = found.index(home), str(len(found.counts))
    if used is None:
        return count, "another", "", "none"
    share = found.counts[used] / (found.counts.sum() + found.unsettled)
    return count, f"number {used + 1}", f"{found.energies[used] - found.energies[0]:.3g}", f"{share:.0%}"
