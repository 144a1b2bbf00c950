r"""The echo of one block: nudges on its features, the legs back, and the chain rule around them.

The gradient that arrives from above is the force on the features, held. The time integral of
$\partial H/\partial\theta$ is contrasted between the legs, and what they have become where the run began is the
gradient in the initial values.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from eqprop.motion import EverySample, Hamiltonian, RunEnd
from eqprop.settle.leapfrog import gain
from eqprop.settle.stream import Gathered, replay, run_and_gather
from eqprop.system import CostNudged

__all__ = ["BlockRun", "echo_block", "only"]


class BlockRun(NamedTuple):
    """One block's run of a batch."""

    block: Hamiltonian
    inputs: PyTree
    drive: PyTree
    samples: int
    begin: tuple[Inexact[Array, "batch coordinate"], Inexact[Array, "batch coordinate"]]
    end: RunEnd
    learn_drive: bool
    """Whether the gradient in the drive is wanted: for what is below, or what encodes it."""
    gathered: Gathered | None
    """What the run gathered for the free leg of a stencil, each example with weight one; None if not asked for."""


def echo_block(propagate, stencil, run, cotangent, good, scale, cost, targets, *, lower):
    """One block's echo, and the chain rule around it: readout above, drive and initial values below.

    Returns:
        The gradient; that in the inputs of each example's own cost, if `lower` asks for it; the end points of the legs
        with the distance by which they miss the start; and which examples came back.
    """
    block, learn_drive = run.block, run.learn_drive
    parameters, rest = eqx.partition(block, eqx.is_inexact_array)
    dtype = run.end.position.dtype
    nodes, table = (leaf.astype(dtype) for leaf in (stencil.nodes, stencil.weights))
    # The free leg of a one-sided stencil has been run: forward, and its sums with it.
    nodes, replayed = (nodes[1:], table[1:]) if stencil.starts_free else (nodes, table)
    rows = _stand_ins(good)
    begin, end, inputs = (jax.tree.map(lambda leaf: leaf[rows], t) for t in (run.begin, run.end, run.inputs))

    def read(parameters, features):
        return jax.vmap(eqx.combine(parameters, rest).readout)(features)

    weighted = jax.tree.map(lambda c: c * _column(jnp.where(good, scale, 0).astype(c.dtype), c), cotangent)
    above = jax.vjp(lambda p: read(p, end.features), parameters)[1](weighted)[0]
    force = jax.vjp(lambda f: read(parameters, f), end.features)[1](cotangent)[0]
    norm = _norms(force, stencil.starts_free) if propagate.normalised else jnp.ones_like(good, dtype)
    force = force / _column(jnp.where(norm > 0, norm, 1), force)
    example_weight = jnp.where(good, scale * norm, 0)
    if propagate.nudge is CostNudged:
        nudge = _cost_nudge(nodes, cost, targets)
        above = jax.tree.map(jnp.zeros_like, above)
    else:
        nudge = _forced_nudge(nodes, force, run.samples, block.window)

    weights = replayed[:, None] * example_weight[None]
    back = replay(block, run.drive, run.samples, end, nudge, weights, learn_drive=learn_drive, rows=rows)
    gathered, position, momentum = back.gathered, back.position, back.momentum
    if stencil.starts_free:
        free = _free_sums(run, good)
        gathered = jax.tree.map(lambda g, f: g + table[0] * scale * norm[0] * f, gathered, free)
        position, momentum = (
            jnp.concatenate([b[None], leg]) for b, leg in zip(begin, (position, momentum), strict=True)
        )
    miss, retraced = _judge(stencil, position, momentum, begin, end, run, propagate.accuracy)

    # Friction gives what the legs came back to the weight of the run's beginning.
    leg_weights = table[:, None, None] * example_weight[None, :, None] / gain(block, run.samples)
    start_gradient = (jnp.sum(leg_weights * momentum, axis=0), -jnp.sum(leg_weights * position, axis=0))

    def enter(parameters, inputs):
        model = eqx.combine(parameters, rest)
        entered = jax.vmap(model.begin)(inputs)
        return (entered, jax.vmap(model.drive)(inputs)) if learn_drive else (entered, None)

    cotangents = (start_gradient, gathered.drive_gradient if learn_drive else None)
    floating, other = eqx.partition(inputs, eqx.is_inexact_array)
    pulled = jax.vjp(lambda p, x: enter(p, eqx.combine(x, other)), parameters, floating)[1](cotangents)
    gradient = jax.tree.map(lambda *parts: sum(parts), gathered.gradient, above, pulled[0])
    # The cotangent that goes down is that of one example's cost: the mean's weight is put on once, above.
    below = jax.tree.map(lambda c: c / scale.astype(c.dtype), pulled[1]) if lower else None
    return gradient, below, ((position, momentum), miss), retraced | ~good


def _norms(force, common):
    """The norm of each example's force; the largest of the batch, where all must have one weight."""
    norm = jnp.sqrt(jnp.sum(force**2, axis=tuple(range(1, force.ndim))))
    return jnp.full_like(norm, jnp.max(norm)) if common else norm


def _free_sums(run, good):
    """What the forward run gathered; gathered anew where examples are left out, which is rare."""

    def anew():
        rows, weights = _stand_ins(good), good.astype(run.end.position.dtype)
        begin = jax.tree.map(lambda leaf: leaf[rows], run.begin)
        return run_and_gather(
            run.block, run.drive, run.samples, begin, weights, learn_drive=run.learn_drive, rows=rows
        )[1]

    return jax.lax.cond(jnp.all(good), lambda: run.gathered, anew)


def _column(values, like):
    """One number an example, to be multiplied with an array of theirs."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _forced_nudge(nodes, force, samples, window):
    keeps = isinstance(window, EverySample)
    # Rows first, legs beside each other: what each sample needs of it lies together.
    rows = jnp.moveaxis(force, 1, 0)
    pushes = rows if keeps else (nodes[None, :, None, None] * rows[:, None]).reshape(len(rows), -1, rows.shape[-1])

    def nudge(model, sample, readings):
        del model
        if keeps:
            here = jax.lax.dynamic_index_in_dim(pushes, sample, 0, keepdims=False)
            here = (nodes[:, None, None] * here[None]).reshape(readings.shape)
        else:
            here = jnp.tensordot(window.weights(sample, samples).astype(force.dtype), pushes, axes=1)
        return jnp.sum(here * readings, axis=1)

    return nudge


def _cost_nudge(nodes, cost, targets):
    def nudge(model, sample, readings):
        wanted = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, sample, 1, keepdims=False), targets)

        def one(reading, target):
            return cost.at(sample, model.readout(reading[None])[0], target)

        legs = readings.reshape(len(nodes), -1, readings.shape[-1])
        return (nodes[:, None] * jax.vmap(lambda leg: jax.vmap(one)(leg, wanted))(legs)).ravel()

    return nudge


def _judge(stencil, position, momentum, begin, end, run, accuracy):
    """How far the echoes miss the start, and whether that is little beside what the nudge did."""
    legs = jnp.concatenate([position, momentum], axis=-1)
    origin = jnp.concatenate(begin, axis=-1)
    size = jnp.maximum(_rms(origin), _rms(jnp.concatenate([end.position, end.momentum], axis=-1)))
    centre = legs[0] if stencil.starts_free else jnp.mean(legs, axis=0)
    moved = jnp.max(_rms(legs - centre[None]), axis=0)
    # Without an unnudged echo, the nudged one's whole distance from the start is all that is known.
    miss = moved if stencil.starts_free else _rms(centre - origin)
    points = run.samples * run.block.substeps
    floor = 64 * float(jnp.finfo(legs.dtype).eps) * points**0.5 * gain(run.block, run.samples) * size
    retraced = (stencil.starts_free | (miss <= accuracy * moved + floor)) & (
        moved <= accuracy * jnp.maximum(size, 1e-3)
    )
    return miss, retraced


def _rms(values):
    return jnp.sqrt(jnp.mean(values**2, axis=-1))


def _stand_ins(good):
    """Each example's own number; for one that is left out, that of the first that is not."""
    return jnp.where(good, jnp.arange(good.shape[0]), jnp.argmax(good))


def only(good, tree):
    """What examples that are left out send back is zero."""
    return jax.tree.map(lambda leaf: jnp.where(_column(good, leaf), leaf, 0), tree)
