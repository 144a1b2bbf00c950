r"""Runs and replays that hold one point of the path at a time, all examples of a batch together.

On the way they gather what an echo contrasts, $\int\partial H/\partial\theta\,dt$ and $\partial H/\partial u$ of each
sample. Point $k$ of a path is a kick at $q_k$ and the drift before it; a replay takes them in reverse, with the momenta
turned round, so that both gather the same sums of the same path. With friction every term of the sums has the weight
$e^{\gamma(t - T)}$, and the nudge is divided by it.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int, PyTree

from eqprop.motion import EverySample, Hamiltonian, RunEnd, fading
from eqprop.settle.leapfrog import Point, drift

__all__ = ["Gathered", "NudgingEnergy", "Replay", "replay", "run", "run_and_gather"]

NudgingEnergy = Callable[[Hamiltonian, Int[Array, ""], Inexact[Array, "copy reading"]], Inexact[Array, " copy"]]
"""Of (system, sample, readings): the nudging energy of each leg and example at the end of that sample."""


class Gathered(eqx.Module):
    """Sums over the examples (and legs) of a run, each with its weight."""

    gradient: PyTree
    """The time integral of dH/dtheta; a tree like the system."""
    drive_gradient: PyTree
    """dH/du of each sample of the drive, where it was asked for. [batch, sample, ...]"""


class Replay(eqx.Module):
    """What a replay leaves: gradients, and where the legs came back to."""

    gathered: Gathered
    position: Inexact[Array, "leg batch coordinate"]
    momentum: Inexact[Array, "leg batch coordinate"]
    """Turned round again: to be compared with the initial momentum."""


def run(system: Hamiltonian, drive: PyTree, samples: int, begin: Point) -> RunEnd:
    """Run a batch forward from `begin`.

    Args:
        system: The system.
        drive: Leading axes [batch, sample]; None for an undriven run.
        samples: Number of samples.
        begin: Initial positions and momenta, leading axis the batch.
    """
    return _forward(system, drive, samples, begin, None, None)[0]


def run_and_gather(
    system: Hamiltonian,
    drive: PyTree,
    samples: int,
    begin: Point,
    weights: Float[Array, " batch"],
    *,
    learn_drive: bool = False,
    rows: Int[Array, " batch"] | None = None,
) -> tuple[RunEnd, Gathered]:
    """Run a batch forward, and gather what an unnudged replay of it would.

    Args:
        system: As in `run`.
        drive: As in `run`.
        samples: As in `run`.
        begin: As in `run`.
        weights: Of each example in the sums.
        learn_drive: Whether to gather the gradient in the drive.
        rows: The example whose drive each one runs under, its own by default. An example that is left out runs as
            another, because zero times what has become infinite is no zero.
    """
    return _forward(system, drive, samples, begin, _Gather(system, weights, learn_drive), rows)


def replay(
    system: Hamiltonian,
    drive: PyTree,
    samples: int,
    end: RunEnd,
    nudge: NudgingEnergy | None,
    weights: Float[Array, "leg batch"],
    *,
    learn: bool = True,
    learn_drive: bool = False,
    rows: Int[Array, " batch"] | None = None,
) -> Replay:
    """Run all legs back from the end of a run.

    Args:
        system: As in `run`.
        drive: As in `run`.
        samples: As in `run`.
        end: Where the run ended.
        nudge: The nudging energy; None for a replay without nudge.
        weights: Of each leg and example in the sums.
        learn: Whether to gather anything.
        learn_drive: Whether to gather the gradient in the drive.
        rows: As in `run_and_gather`.
    """
    legs = weights.shape[0]
    # Legs and examples share one axis: each product of a step is then one matrix product.
    weights = weights.ravel()
    gather = _Gather(system, weights, learn_drive) if learn else None
    force = _force(system, legs)

    def push(nudge, position, index):
        return jax.grad(lambda q: jnp.sum(nudge(system, index, jax.vmap(system.reading)(q))))(position)

    def point(carry, inner, drive, index, at_end):
        position, momentum, gathered, gathered_drive = carry
        time, kick, fade = _weights(system, index, inner, samples, position.dtype)
        momentum = momentum - kick * force(position, drive)
        nudging = nudge if at_end else None
        if nudging is not None:
            momentum = momentum - push(nudging, position, index) / fade
        after, during = drift(system, (position, momentum), time, back=True)
        if gather is not None:
            gathered, gathered_drive = gather(
                gathered, gathered_drive, position, during, drive, (kick, time, fade), nudging, index
            )
        return *after, gathered, gathered_drive

    def sample(carry, _):
        position, momentum, gathered, index = carry
        here = _at(drive, index, rows)
        # The reading belongs to the last kick of a sample, which comes first on the way back.
        inside = (position, momentum, gathered, _nothing(here) if learn and learn_drive else None)
        inside = point(inside, system.substeps - 1, here, index, True)
        if system.substeps > 1:
            inside = jax.lax.scan(
                lambda c, inner: (point(c, inner, here, index, False), None),
                inside, jnp.arange(system.substeps - 1, dtype=jnp.int32), reverse=True,
            )[0]  # fmt: skip
        position, momentum, gathered, gathered_drive = inside
        return (position, momentum, gathered, index - 1), gathered_drive

    position, momentum = (jnp.tile(leaf, (legs, 1)) for leaf in (end.position, -end.momentum))
    empty = None if gather is None else gather.empty
    carry = (position, momentum, empty, jnp.asarray(samples - 1, jnp.int32))
    (position, momentum, gathered, _), drives = jax.lax.scan(sample, carry, length=samples, reverse=True)
    back = (leaf.reshape(legs, -1, leaf.shape[-1]) for leaf in (position, -momentum))
    return Replay(Gathered(gathered, _example_first(drives)), *back)


def _forward(system, drive, samples, begin, gather, rows):
    """The run, and what `gather` made of it."""
    position, momentum = begin
    keeps = isinstance(system.window, EverySample)
    shape = jax.eval_shape(jax.vmap(system.reading), position)
    empty = None if keeps else system.window.start(shape, samples)
    force = _force(system, 1)
    learn_drive = gather is not None and gather.learn_drive

    def point(carry, inner, drive, index):
        position, momentum, gathered, gathered_drive = carry
        time, kick, fade = _weights(system, index, inner, samples, position.dtype)
        (position, momentum), during = drift(system, (position, momentum), time)
        momentum = momentum - kick * force(position, drive)
        if gather is not None:
            gathered, gathered_drive = gather(
                gathered, gathered_drive, position, during, drive, (kick, time, fade), None, index
            )
        return position, momentum, gathered, gathered_drive

    # Samples are counted in the carry: an array of their numbers would grow with the run.
    def sample(carry, _):
        position, momentum, gathered, features, index = carry
        here = _at(drive, index, rows)
        inside = (position, momentum, gathered, _nothing(here) if learn_drive else None)
        if system.substeps == 1:
            inside = point(inside, 0, here, index)
        else:
            inside = jax.lax.scan(
                lambda c, inner: (point(c, inner, here, index), None),
                inside, jnp.arange(system.substeps, dtype=jnp.int32),
            )[0]  # fmt: skip
        position, momentum, gathered, gathered_drive = inside
        reading = jax.vmap(system.reading)(position)
        if not keeps:
            # The window's rows come before the batch; features are turned at the end.
            weights = system.window.weights(index, samples).astype(reading.dtype)
            features, reading = features + weights[:, None, None] * reading[None], None
        return (position, momentum, gathered, features, index + 1), (reading, gathered_drive)

    carry = (position, momentum, None if gather is None else gather.empty, empty, jnp.zeros((), jnp.int32))
    (position, momentum, gathered, features, _), (readings, drives) = jax.lax.scan(sample, carry, length=samples)
    features = jnp.moveaxis(readings if keeps else features, 0, 1)
    return RunEnd(position, momentum, features), Gathered(gathered, _example_first(drives))


class _Gather:
    """Adds what one point of all copies gives, to sums over the run."""

    def __init__(self, system: Hamiltonian, weights: Float[Array, " copy"], learn_drive: bool):
        self.parameters, self.rest = eqx.partition(system, eqx.is_inexact_array)
        self.system, self.weights, self.learn_drive = system, weights, learn_drive
        self.empty = jax.tree.map(jnp.zeros_like, self.parameters)

    def __call__(self, gathered, gathered_drive, position, momentum, drive, weights, nudging, index):
        kick, time, fade = weights
        copies = position.shape[0] // (jax.tree.leaves(drive) or [position])[0].shape[0]

        def energy(parameters, drive):
            model = eqx.combine(parameters, self.rest)
            potential = jax.vmap(model.potential)(position, _tiled(drive, copies))
            # The drift lies half its length before the kick.
            at_drift = fading(self.system, -0.5 * time / self.system.step)
            total = fade * (kick * potential + at_drift * time * jax.vmap(model.kinetic)(momentum))
            if nudging is not None:
                total = total + nudging(model, index, jax.vmap(model.reading)(position))
            return jnp.sum(self.weights * total)

        if self.learn_drive:
            change, drive_change = jax.grad(energy, argnums=(0, 1))(self.parameters, drive)
            gathered_drive = jax.tree.map(jnp.add, gathered_drive, drive_change)
        else:
            change = jax.grad(energy)(self.parameters, drive)
        return jax.tree.map(jnp.add, gathered, change), gathered_drive


def _force(system, copies):
    """The potential's derivative, of all copies."""
    force = jax.vmap(jax.grad(system.potential))
    return lambda position, drive: force(position, _tiled(drive, copies))


def _weights(system, sample, inner, samples, dtype):
    """Length of the drift before one point (none before the first), of its kick (half at both ends), and its weight."""
    point, final = sample * system.substeps + inner, samples * system.substeps - 1
    first, last = point == 0, point == final
    step = jnp.asarray(system.step, dtype)
    fade = fading(system, (point - final).astype(dtype))
    return jnp.where(first, 0, step), jnp.where(first | last, step / 2, step), fade


def _at(drive, index, rows):
    """One sample of the drive."""
    if rows is None:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 1, keepdims=False), drive)
    return jax.tree.map(lambda leaf: leaf.at[rows, index].get(mode="promise_in_bounds"), drive)


def _tiled(drive, copies):
    if copies == 1:
        return drive
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (copies, *(1,) * (leaf.ndim - 1))), drive)


def _nothing(drive):
    return jax.tree.map(jnp.zeros_like, drive)


def _example_first(tree):
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), tree)
