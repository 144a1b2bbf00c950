"""Evaluation: free phases only, batch by batch."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PRNGKeyArray, PyTree

from eqprop.gradient.estimate import Estimator, batch_size
from eqprop.system import System
from eqprop.train.experiment import Experiment
from eqprop.train.parallel import devices_for, free_phase_shared

__all__ = ["Evaluation", "evaluate", "outputs_of"]


class Evaluation(NamedTuple):
    """How a system does on data. Unsettled examples count as errors, and not in the cost."""

    cost: float
    error: float | None
    unsettled: float


def evaluate(
    experiment: Experiment,
    system: System,
    data: tuple[PyTree, PyTree],
    *,
    key: PRNGKeyArray | None = None,
    batch_size: int = 200,
) -> Evaluation:
    """Mean cost and fraction of errors of a system's free equilibria.

    Args:
        experiment: Gives cost, solver, and what counts as an error.
        system: The system to judge.
        data: Inputs and targets.
        key: For physics that is random.
        batch_size: Examples settled together.
    """
    costs, wrong, settled = [], [], []
    judge = _judge_on_host if experiment.host else _judge_compiled
    still = _still(experiment)
    for index, ((inputs, targets), count) in enumerate(_batches(data, batch_size, still[1])):
        own_key = None if key is None else jax.random.fold_in(key, index)
        results = judge(still, system, inputs, targets, own_key)
        for kept, result in zip((costs, wrong, settled), results, strict=True):
            kept.append(np.asarray(result)[:count])
    cost, error, good = (np.concatenate(parts) for parts in (costs, wrong, settled))
    mean_cost = float(cost[good].mean(dtype=np.float64)) if good.any() else float("nan")
    return Evaluation(mean_cost, None if experiment.wrong is None else float(np.mean(error)), float(1 - good.mean()))


def outputs_of(
    system: System,
    propagate: Estimator,
    inputs: PyTree,
    *,
    key: PRNGKeyArray | None = None,
    batch_size: int = 200,
) -> tuple[PyTree, Bool[np.ndarray, " example"]]:
    """Outputs at the free equilibria of many examples, and which of them settled.

    Args:
        system: The system.
        propagate: Settles the free phases.
        inputs: Leading axis the example.
        key: For physics that is random.
        batch_size: Examples settled together.
    """
    read = _read_on_host if propagate.solver.host else _read_compiled
    parts, settled = [], []
    for index, (batch, count) in enumerate(_batches(inputs, batch_size)):
        own_key = None if key is None else jax.random.fold_in(key, index)
        output, good = read(propagate, system, batch, own_key)
        parts.append(jax.tree.map(lambda leaf, n=count: np.asarray(leaf)[:n], output))
        settled.append(np.asarray(good)[:count])
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), np.concatenate(settled)


def _still(experiment):
    """What of an experiment judging needs."""
    return experiment.propagate, devices_for(experiment.devices, None), experiment.cost, experiment.wrong


def _free(propagate, devices, system, inputs, key):
    keys = None if key is None else jax.random.split(key, batch_size(inputs))
    return free_phase_shared(propagate, devices, system, inputs, keys)


def _outputs(system, free):
    return jax.vmap(lambda eq: eq.expect(system.output))(free), free.settled


def _judged(system, cost, wrong, targets, free):
    costs = jax.vmap(lambda eq, y: eq.expect(lambda s: cost(system.output(s), y)))(free, targets)
    outputs, settled = _outputs(system, free)
    mistaken = jnp.zeros(settled.shape, bool) if wrong is None else jax.vmap(wrong)(outputs, targets)
    return costs, mistaken | ~settled, settled


_outputs_compiled = eqx.filter_jit(_outputs)
_judged_compiled = eqx.filter_jit(_judged)


# Of a host solver only the physics is out of JAX's hands: what is made of it is compiled all the same.
def _read_on_host(propagate, system, inputs, key):
    return _outputs_compiled(system, _free(propagate, 1, system, inputs, key))


def _judge_on_host(still, system, inputs, targets, key):
    propagate, _, cost, wrong = still
    return _judged_compiled(system, cost, wrong, targets, _free(propagate, 1, system, inputs, key))


@eqx.filter_jit
def _read_compiled(propagate, system, inputs, key):
    return _outputs(system, _free(propagate, 1, system, inputs, key))


@eqx.filter_jit
def _judge_compiled(still, system, inputs, targets, key):
    propagate, devices, cost, wrong = still
    return _judged(system, cost, wrong, targets, _free(propagate, devices, system, inputs, key))


def _batches(data, size, devices=1):
    """Batches of one size that the devices divide, the last filled up with its first example; and what counts of it."""
    total = jax.tree.leaves(data)[0].shape[0]
    size = -(-min(size, total) // devices) * devices
    for begin in range(0, total, size):
        count = min(size, total - begin)
        rows = np.concatenate([np.arange(begin, begin + count), np.full(size - count, begin)])
        yield jax.tree.map(lambda leaf, rows=rows: leaf[rows], data), count
