r"""Training: shuffled batches, an estimate each, an update each; compiled once.

Data in memory are trained on in one compiled loop whose bounds are arrays, so that progress, checkpoints and stops can
fall between any two steps without another compilation and without changing a bit of the result. Systems that live
outside JAX, and iterables of batches, take the same step from a Python loop.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from eqprop.equilibrium import RESULT
from eqprop.system import System
from eqprop.train.evaluate import evaluate
from eqprop.train.experiment import Experiment, example_of
from eqprop.train.measure import FAILURES, epoch_metrics, no_sums, reads_units, saturation, sums_of
from eqprop.train.parallel import devices_for, estimate_shared, on_all, on_first

__all__ = ["Fitted", "Moment", "TrainState", "TrainingError", "fit", "start", "training"]

CHUNK_SECONDS = 0.5
"""Aim for the time between two moments of progress. [s]"""
EVALUATION = 2**31 - 1
"""Folded into an epoch's key in place of a step."""
JUDGED_STEPS = 50
"""Unsettled examples are judged over at least so many steps, or an epoch's."""
HOPELESS_STEPS = 5
"""Steps of which not one example settled; earlier, a single batch that is learned already would stop a run."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why and what to do."""


class TrainState(eqx.Module):
    """All that changes in training; what a checkpoint holds."""

    system: System
    optimiser: optax.OptState
    key: PRNGKeyArray
    epoch: Int[Array, ""]
    """Epochs completed."""
    step: Int[Array, ""]
    """Steps made in this epoch."""
    sums: dict[str, Array]
    """Of this epoch's measures."""
    finite: Bool[Array, ""]
    """Whether all gradients so far were finite; the loop ends before an update with one that is not."""


class Moment(NamedTuple):
    """Training between two chunks. The state is valid until the next moment is asked for."""

    state: TrainState
    epoch: int
    step: int
    steps: int | None
    """Steps in an epoch, where known."""
    metrics: dict[str, float | int] | None
    """Of the epoch that has just ended, else None."""


class Fitted(NamedTuple):
    """What training gives."""

    system: System
    metrics: list[dict[str, float | int]]


def fit(
    experiment: Experiment,
    *,
    epochs: int,
    batch_size: int,
    key: PRNGKeyArray,
    max_unsettled: float = 0.05,
    watch: Callable[[Moment], None] | None = None,
) -> Fitted:
    """Train a system.

    Args:
        experiment: System, cost, estimator, optimiser, data.
        epochs: Passes through the training data.
        batch_size: Examples per update; what is left over of an epoch is dropped after shuffling.
        key: Decides the shuffling, and all that is random in the physics.
        max_unsettled: Largest fraction of examples that may fail to settle.
        watch: Called between chunks of steps and after each epoch.

    Returns:
        The trained system and the measures of each epoch.

    Raises:
        TrainingError: if too many examples do not settle, or a gradient or parameter is not finite.
    """
    metrics = []
    state = start(experiment, key)
    for moment in training(experiment, state, epochs=epochs, batch_size=batch_size, max_unsettled=max_unsettled):
        state = moment.state
        if watch is not None:
            watch(moment)
        if moment.metrics is not None:
            metrics.append(moment.metrics)
    return Fitted(state.system if experiment.devices == 1 else on_first(state.system), metrics)


def start(experiment: Experiment, key: PRNGKeyArray) -> TrainState:
    """The state before the first step."""
    system = experiment.system
    return TrainState(
        system=system,
        optimiser=experiment.optimiser.init(eqx.filter(system, eqx.is_inexact_array)),
        key=key,
        epoch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        sums=no_sums(),
        finite=jnp.ones((), bool),
    )


def training(
    experiment: Experiment,
    state: TrainState,
    *,
    epochs: int,
    batch_size: int,
    max_unsettled: float = 0.05,
) -> Iterator[Moment]:
    """Train from a state on, moment by moment.

    Args:
        experiment: System, cost, estimator, optimiser, data; its system is not looked at, the state's is.
        state: Where to start; it is not changed.
        epochs: Train until so many are completed in all.
        batch_size: Examples per update.
        max_unsettled: Largest fraction of examples that may fail to settle.

    Raises:
        ValueError: if the batch is larger than the data.
        TrainingError: as `fit` does.
    """
    key = state.key
    watched = reads_units(state.system, example_of(experiment)[0])
    # The compiled loop reuses the memory of the state it is given: give it a copy, the caller keeps his.
    state = jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, state)
    # One set of devices for all that a program sees: chosen once, for the state, the data and every batch.
    devices = devices_for(experiment.devices, batch_size if experiment.resident else None)
    train = on_all(experiment.train, devices) if experiment.resident else experiment.train
    state, experiment = on_all(state, devices), dataclasses.replace(experiment, train=train, devices=devices)
    while int(state.epoch) < epochs:
        epoch, began = int(state.epoch), time.perf_counter()
        judge = _Judge(state, max_unsettled)
        for after, steps in _epoch(experiment, state, key, batch_size, watched):
            state = after
            judge(state)
            if int(state.step) != steps:
                yield Moment(state, epoch, int(state.step), steps, None)
        judge(state, last=True)
        seconds = time.perf_counter() - began
        metrics = {"epoch": epoch + 1, **_measure(experiment, state, key, watched)}
        metrics |= {"seconds": seconds, "evaluation_seconds": time.perf_counter() - began - seconds}
        steps = int(state.step)
        state = eqx.tree_at(
            lambda s: (s.epoch, s.step, s.sums), state, (state.epoch + 1, jnp.zeros((), jnp.int32), no_sums())
        )
        yield Moment(state, epoch, steps, steps, metrics)


def _measure(experiment, state, key, watched):
    metrics = epoch_metrics(state.sums, errors=experiment.wrong is not None, saturation=watched)
    if experiment.test is not None:
        own_key = jax.random.fold_in(jax.random.fold_in(key, state.epoch), EVALUATION)
        result = evaluate(experiment, state.system, experiment.test, key=own_key)
        metrics["test_cost"] = result.cost
        if result.error is not None:
            metrics["test_error"] = result.error
        metrics["test_unsettled"] = result.unsettled
    return metrics


def _epoch(experiment, state, key, batch_size, watched) -> Iterator[tuple[TrainState, int | None]]:
    """The rest of an epoch; states between chunks, the last at its end, and the steps of an epoch."""
    if not experiment.resident:
        yield from _epoch_of_batches(experiment, state, key, watched)
        return
    total = jax.tree.leaves(experiment.train)[0].shape[0]
    steps = total // batch_size
    if steps == 0:
        raise ValueError(f"`batch_size` = {batch_size} is larger than the {total} training examples; lower it.")
    order = _shuffled(key, state.epoch, total)
    chunk = 1 if experiment.host else 8
    while (done := int(state.step)) < steps:
        until, began = min(done + chunk, steps), time.perf_counter()
        if experiment.host:
            rows = order[done * batch_size : until * batch_size]
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], experiment.train)
            state = _step(_still(experiment), key, watched, state, *batch)
        else:
            fixed = (
                _still(experiment),
                experiment.train,
                order,
                key,
                jnp.asarray(until, jnp.int32),
                batch_size,
                watched,
            )
            state = _chunk(fixed, state)
            jax.block_until_ready(state.step)
            rate = (until - done) / (time.perf_counter() - began)
            # At most fourfold, because the first chunk's time holds the compilation.
            chunk = max(1, min(int(rate * CHUNK_SECONDS), 4 * chunk))
        yield state, steps
        if not bool(state.finite):
            return


def _epoch_of_batches(experiment, state, key, watched):
    steps = len(experiment.train) if hasattr(experiment.train, "__len__") else None
    skip = int(state.step)
    step = _step if experiment.host else _step_compiled
    for index, (inputs, targets) in enumerate(experiment.train):
        if index < skip:
            continue
        inputs, targets = (jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), part) for part in (inputs, targets))
        state = step(_still(experiment), key, watched, state, inputs, targets)
        yield state, steps
        if not bool(state.finite):
            return


def _still(experiment):
    """What of an experiment a step needs and does not change."""
    return experiment.cost, experiment.propagate, experiment.devices, experiment.optimiser, experiment.wrong


@jax.jit(static_argnums=2)
def _shuffled(key, epoch, total):
    return jax.random.permutation(jax.random.fold_in(key, epoch), total)


@eqx.filter_jit(donate="all-except-first")
def _chunk(fixed, state):
    still, data, order, key, until, batch_size, watched = fixed
    moving, constant = eqx.partition(state, eqx.is_array)

    def unfinished(moving):
        return (moving.step < until) & moving.finite

    def advance(moving):
        rows = jax.lax.dynamic_slice(order, (moving.step * batch_size,), (batch_size,))
        inputs, targets = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), data)
        after = _step(still, key, watched, eqx.combine(moving, constant), inputs, targets)
        return eqx.filter(after, eqx.is_array)

    return eqx.combine(jax.lax.while_loop(unfinished, advance, moving), constant)


def _step(still, key, watched, state, inputs, targets):
    """One estimate and one update."""
    cost, propagate, devices, optimiser, wrong = still
    own_key = jax.random.fold_in(jax.random.fold_in(key, state.epoch), state.step)
    estimate = estimate_shared(propagate, devices, state.system, cost, inputs, targets, own_key)
    # Only the physics of a host solver is out of JAX's hands: the update is compiled all the same.
    update = _updated_compiled if propagate.solver.host else _updated
    return update(optimiser, wrong, watched, state, estimate, targets)


def _updated(optimiser, wrong, watched, state, estimate, targets):
    """The state after an update; no update where the gradient is not finite."""
    norm = optax.tree.norm(estimate.gradient)
    finite = jnp.isfinite(norm)
    parameters = eqx.filter(state.system, eqx.is_inexact_array)
    # Optax mixes types and ranks (Adam's bias correction does); ours stay strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, optimiser_state = optimiser.update(estimate.gradient, state.optimiser, parameters)
    system = eqx.apply_updates(state.system, updates)
    mistaken = None if wrong is None else jax.vmap(wrong)(estimate.outputs, targets)
    walls = jax.vmap(lambda free: saturation(state.system, free))(estimate.free) if watched else None
    new = sums_of(estimate, norm, mistaken, walls)
    return TrainState(
        system=_where(finite, system, state.system),
        optimiser=_where(finite, optimiser_state, state.optimiser),
        key=state.key,
        epoch=state.epoch,
        step=state.step + 1,
        sums={name: old + new[name] for name, old in state.sums.items()},
        finite=state.finite & finite,
    )


_step_compiled = eqx.filter_jit(_step)
_updated_compiled = eqx.filter_jit(_updated)


def _where(condition, new, old):
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o) if eqx.is_array(n) else n, new, old)


class _Judge:
    """Stops training that has gone wrong; looks at the examples since it last passed sentence."""

    def __init__(self, state, max_unsettled):
        self.max_unsettled = max_unsettled
        self.before = self._counts(state)

    @staticmethod
    def _counts(state):
        return {name: int(state.sums[name]) for name in ("steps", "examples", "settled", *FAILURES)}

    def __call__(self, state, last=False):
        where = f"epoch {int(state.epoch) + 1}, step {int(state.step)}"
        if not bool(state.finite):
            raise TrainingError(
                f"The gradient became infinite or NaN in {where}, and training stopped before using it. "
                "Lower `optimiser.learning_rate`, or set `optimiser.clip_norm`."
            )
        now = self._counts(state)
        window = {name: now[name] - self.before[name] for name in now}
        lost = window["examples"] - window["settled"]
        enough = JUDGED_STEPS if window["settled"] > 0 else HOPELESS_STEPS
        if window["steps"] == 0 or (window["steps"] < enough and not last):
            return
        _check_parameters(state, where)
        if lost > self.max_unsettled * window["examples"]:
            worst = max(FAILURES, key=lambda name: window[name])
            raise TrainingError(
                f"{lost} of {window['examples']} examples did not settle up to {where}, more than `max_unsettled` = "
                f"{self.max_unsettled:g} allows. Most of them ({window[worst]}): {worst}. {RESULT[FAILURES[worst]]}"
            )
        self.before = now


def _check_parameters(state, where):
    for leaf in jax.tree.leaves(eqx.filter(state.system, eqx.is_inexact_array)):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise TrainingError(
                f"A parameter became infinite or NaN by {where}. Lower `optimiser.learning_rate`, or set "
                "`optimiser.clip_norm`."
            )
