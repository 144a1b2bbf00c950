r"""Echo propagation: gradients of runs from initial values, in memory that does not grow with their length.

One run forward, then all nudged legs of the stencil run back together, while the time integral of
$\partial H/\partial\theta$ is gathered as they go. An unnudged leg would retrace the run, so that a one-sided stencil
gathers its free sums on the way forward. What is contrasted is the same as in `EquilibriumPropagation` with the solver
`Echo`; only the path is never stored. In a `Stack` the echo of each block is driven by the gradient that the
block above it sends down.

Source:
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Inexact, PyTree

from eqprop.cost import RunningCost
from eqprop.equilibrium import RESULT
from eqprop.gradient.estimate import Estimate, Estimator, batch_size
from eqprop.gradient.stencil import RandomSign, Stencil
from eqprop.motion import EverySample, Hamiltonian, RunEnd, Stack
from eqprop.settle.base import Solver
from eqprop.settle.echo import PathEquilibrium, Run
from eqprop.settle.retrace import hamiltonian_of, honest_length, sharpness
from eqprop.settle.stream import Gathered, replay, run, run_and_gather
from eqprop.system import CostNudged, Forced, Nudge

__all__ = ["BackpropagationThroughTime", "EchoPropagation"]


class EchoPropagation(Estimator):
    """The echo's gradient for `Hamiltonian` systems and stacks of them.

    Args:
        stencil: Nudging strengths and weights. The error grows with the length of the run: `symmetric(1e-4)` in
            float64; in float32 about `symmetric(3e-3)`, with `normalised`.
        nudge: `Forced`: the gradient of the cost in the features of the free run, held. `CostNudged`: a `RunningCost`
            at the replayed state itself, for systems whose window is `EverySample` and whose readout acts row by row.
        normalised: Whether the force on each example has unit norm (and its gradient is multiplied back), so that beta
            means the same for large and for small errors. For `Forced`. With a one-sided stencil the largest force of
            a batch has, because its free sums were gathered before any force was known.
        accuracy: An example is refused (`RESULT.not_retraced`) where the mean of its legs misses the start by more than
            this fraction of what the nudge moved them, or the nudge moved them by more than this fraction of size. With
            a one-sided stencil the two cannot be told apart, and the second bound stands for both.
    """

    stencil: Stencil | RandomSign
    nudge: Nudge = eqx.field(static=True, default=Forced)
    normalised: bool = False
    accuracy: float = 0.3
    solver: Solver = eqx.field(init=False, default_factory=Run)
    """What runs the free phase, where only that is wanted."""

    def __check_init__(self):
        if self.nudge not in (Forced, CostNudged):
            raise ValueError("`EchoPropagation.nudge` must be `Forced` or `CostNudged`.")
        if isinstance(self.stencil, Stencil) and jnp.iscomplexobj(self.stencil.nodes):
            raise ValueError("`EchoPropagation` runs real motions; give a real stencil, such as `symmetric(1e-4)`.")
        if self.normalised and self.nudge is CostNudged:
            raise ValueError(
                "`normalised` scales the constant force of `Forced`; a cost's own nudge has no such scale."
            )

    def scaled(self, factor: float) -> "EchoPropagation":
        """The same estimator at `factor` times the nudging strength."""
        return EchoPropagation(self.stencil.scaled(factor), self.nudge, self.normalised, self.accuracy)

    def estimate(self, system, cost, inputs, targets, start, key):
        del start
        for block in _blocks(system):
            hamiltonian_of(block, "`EchoPropagation`")
        if self.nudge is CostNudged:
            _check_running(system, cost)
        estimate = _echo(self, system, cost, inputs, targets, key)
        if not isinstance(estimate.value, Tracer) and not np.asarray(estimate.settled).any():
            raise RuntimeError(_refusal(system, inputs, estimate, float(jnp.max(jnp.abs(_table(self.stencil).nodes)))))
        return estimate


class BackpropagationThroughTime(Estimator):
    """The exact gradient of a run, by reverse-mode differentiation of the leapfrog. Memory grows with the run."""

    solver: Solver = eqx.field(init=False, default_factory=Run)
    """What runs the system, where only that is wanted."""

    def estimate(self, system, cost, inputs, targets, start, key):
        del start, key
        return _through_time(system, cost, inputs, targets)


def _blocks(system):
    return system.blocks if isinstance(system, Stack) else (system,)


class _Pass(NamedTuple):
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


def _run_blocks(system, inputs, *, gather=False):
    """The blocks' passes, and the outputs."""
    passes = []
    for number, block in enumerate(_blocks(system)):
        samples = block.length(jax.tree.map(lambda leaf: leaf[0], inputs))
        drive, begin = jax.vmap(block.drive)(inputs), jax.vmap(block.begin)(inputs)
        learn_drive = jax.tree.leaves(drive) != [] and (number > 0 or _encodes(block, inputs))
        if gather:
            ones = jnp.ones(batch_size(inputs), begin[0].dtype)
            end, gathered = run_and_gather(block, drive, samples, begin, ones, learn_drive=learn_drive)
        else:
            end, gathered = run(block, drive, samples, begin), None
        passes.append(_Pass(block, inputs, drive, samples, begin, end, learn_drive, gathered))
        inputs = jax.vmap(block.readout)(end.features)
    return passes, inputs


def _finite(tree, examples):
    flat = [jnp.all(jnp.isfinite(leaf.reshape(examples, -1)), axis=1) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(flat), axis=0)


def _state(system, ends):
    return tuple(ends) if isinstance(system, Stack) else ends[0]


def _value(costs, good):
    mean = jnp.sum(jnp.where(good, costs, 0)) / jnp.maximum(jnp.sum(good), 1).astype(costs.dtype)
    return jnp.where(jnp.any(good), mean, jnp.nan)


@eqx.filter_jit
def _through_time(system, cost, inputs, targets):
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    examples = batch_size(inputs)

    def loss(parameters):
        passes, outputs = _run_blocks(eqx.combine(parameters, rest), inputs)
        costs = jax.vmap(cost)(outputs, targets)
        return jnp.mean(costs), (outputs, [p.end for p in passes])

    (value, (outputs, ends)), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    finite = _finite(ends, examples)
    result = jax.vmap(lambda ok: RESULT.where(ok, RESULT.settled, RESULT.diverged))(finite)
    none = jnp.where(finite, 0, jnp.inf).astype(outputs.dtype)
    free = PathEquilibrium(_state(system, ends), result, none, jnp.ones(examples, jnp.int32))
    return Estimate(value, gradient, outputs, result, free, None)


@eqx.filter_jit
def _echo(propagate, system, cost, inputs, targets, key):
    stencil = propagate.stencil.draw(key)
    examples = batch_size(inputs)
    passes, outputs = _run_blocks(system, inputs, gather=stencil.starts_free)
    ends = [p.end for p in passes]
    finite = _finite(ends, examples)
    costs, slope = jax.vmap(jax.value_and_grad(cost))(outputs, targets)

    def back(good):
        """All blocks' echoes, the last first: gradient, end points of the legs, and which examples came back."""
        cotangent, gradients, backs, fine = _only(good, slope), [], [], good
        scale = 1 / jnp.maximum(jnp.sum(good), 1).astype(costs.dtype)
        for number, passed in reversed(list(enumerate(passes))):
            gradient, cotangent, legs, retraced = _echo_block(
                propagate, stencil, passed, cotangent, good, scale, cost, targets, first=number == 0
            )
            gradients, backs, fine = [gradient, *gradients], [legs, *backs], fine & retraced
        return gradients, backs, fine

    def pending(loop):
        return ~loop[-1]

    def again(loop):
        good = loop[0]
        gradients, backs, fine = back(good)
        # Where no example is left, none can stand in for another.
        gradients = jax.tree.map(lambda leaf: jnp.where(jnp.any(good), leaf, 0), gradients)
        return fine, gradients, backs, jnp.all(fine == good)

    # A second pass only if examples were refused: it leaves them out. Examples do not touch each other.
    shape = eqx.filter_eval_shape(back, finite)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape[:2])
    good, gradients, backs, _ = jax.lax.while_loop(pending, again, (finite, *empty, jnp.zeros((), bool)))

    def outcome(finite, good, unstable):
        kept = RESULT.where(good, RESULT.settled, RESULT.not_retraced)
        return RESULT.where(unstable, RESULT.unstable_step, RESULT.where(finite, kept, RESULT.diverged))

    unstable = jax.lax.cond(jnp.all(good), jnp.zeros_like, lambda g: _unstable(passes) & ~g, good)
    result = jax.vmap(outcome)(finite, good, unstable)
    gradient = tuple(gradients) if isinstance(system, Stack) else gradients[0]
    if isinstance(system, Stack):
        gradient = eqx.tree_at(lambda s: s.blocks, eqx.filter(system, eqx.is_inexact_array), gradient)
    missed = jnp.max(jnp.stack([miss for _, miss in backs]), axis=0)
    free = PathEquilibrium(_state(system, ends), result, missed, jnp.ones(examples, jnp.int32))
    legs = stencil.nodes.shape[0]
    results, misses = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (legs, *leaf.shape)), (result, missed))
    nudged = PathEquilibrium([points for points, _ in backs], results, misses, jnp.ones((legs, examples), jnp.int32))
    return Estimate(_value(costs, good), gradient, outputs, result, free, nudged)


def _echo_block(propagate, stencil, passed, cotangent, good, scale, cost, targets, first):
    """One block's echo, and the chain rule around it: readout above, drive and initial values below."""
    block, learn_drive = passed.block, passed.learn_drive
    parameters, rest = eqx.partition(block, eqx.is_inexact_array)
    dtype = passed.end.position.dtype
    nodes, table = (leaf.astype(dtype) for leaf in (stencil.nodes, stencil.weights))
    # The free leg of a one-sided stencil has been run: forward, and its sums with it.
    nodes, replayed = (nodes[1:], table[1:]) if stencil.starts_free else (nodes, table)
    rows = _stand_ins(good)
    begin, end, inputs = (jax.tree.map(lambda leaf: leaf[rows], t) for t in (passed.begin, passed.end, passed.inputs))

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
        nudge = _forced_nudge(nodes, force, passed.samples, block.window)

    weights = replayed[:, None] * example_weight[None]
    back = replay(block, passed.drive, passed.samples, end, nudge, weights, learn_drive=learn_drive, rows=rows)
    gathered, position, momentum = back.gathered, back.position, back.momentum
    if stencil.starts_free:
        free = _free_sums(passed, good)
        gathered = jax.tree.map(lambda g, f: g + table[0] * scale * norm[0] * f, gathered, free)
        position, momentum = (
            jnp.concatenate([b[None], leg]) for b, leg in zip(begin, (position, momentum), strict=True)
        )
    miss, retraced = _judge(stencil, position, momentum, begin, end, passed, propagate.accuracy)

    leg_weights = table[:, None, None] * example_weight[None, :, None]
    start_gradient = (jnp.sum(leg_weights * momentum, axis=0), -jnp.sum(leg_weights * position, axis=0))

    def enter(parameters, inputs):
        model = eqx.combine(parameters, rest)
        entered = jax.vmap(model.begin)(inputs)
        return (entered, jax.vmap(model.drive)(inputs)) if learn_drive else (entered, None)

    cotangents = (start_gradient, gathered.drive_gradient if learn_drive else None)
    floating, other = eqx.partition(inputs, eqx.is_inexact_array)
    pulled = jax.vjp(lambda p, x: enter(p, eqx.combine(x, other)), parameters, floating)[1](cotangents)
    gradient = jax.tree.map(lambda *parts: sum(parts), gathered.gradient, above, pulled[0])
    lower = None
    if not first:
        # The cotangent that goes down is that of one example's cost: the mean's weight is put on once, above.
        lower = jax.tree.map(lambda c: c / scale.astype(c.dtype), pulled[1])
    return gradient, lower, ((position, momentum), miss), retraced | ~good


def _norms(force, common):
    """The norm of each example's force; the largest of the batch, where all must have one weight."""
    norm = jnp.sqrt(jnp.sum(force**2, axis=tuple(range(1, force.ndim))))
    return jnp.full_like(norm, jnp.max(norm)) if common else norm


def _free_sums(passed, good):
    """What the forward run gathered; gathered anew where examples are left out, which is rare."""

    def anew():
        rows, weights = _stand_ins(good), good.astype(passed.end.position.dtype)
        begin = jax.tree.map(lambda leaf: leaf[rows], passed.begin)
        return run_and_gather(
            passed.block, passed.drive, passed.samples, begin, weights, learn_drive=passed.learn_drive, rows=rows
        )[1]

    return jax.lax.cond(jnp.all(good), lambda: passed.gathered, anew)


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


def _judge(stencil, position, momentum, begin, end, passed, accuracy):
    """How far the echoes miss the start, and whether that is little beside what the nudge did."""
    legs = jnp.concatenate([position, momentum], axis=-1)
    origin = jnp.concatenate(begin, axis=-1)
    size = jnp.maximum(_rms(origin), _rms(jnp.concatenate([end.position, end.momentum], axis=-1)))
    centre = legs[0] if stencil.starts_free else jnp.mean(legs, axis=0)
    moved = jnp.max(_rms(legs - centre[None]), axis=0)
    # Without an unnudged echo, the nudged one's whole distance from the start is all that is known.
    miss = moved if stencil.starts_free else _rms(centre - origin)
    points = passed.samples * passed.block.substeps
    floor = 64 * float(jnp.finfo(legs.dtype).eps) * points**0.5 * size
    retraced = (stencil.starts_free | (miss <= accuracy * moved + floor)) & (
        moved <= accuracy * jnp.maximum(size, 1e-3)
    )
    return miss, retraced


def _rms(values):
    return jnp.sqrt(jnp.mean(values**2, axis=-1))


def _stand_ins(good):
    """Each example's own number; for one that is left out, that of the first that is not."""
    return jnp.where(good, jnp.arange(good.shape[0]), jnp.argmax(good))


def _only(good, tree):
    """What examples that are left out send back is zero."""
    return jax.tree.map(lambda leaf: jnp.where(_column(good, leaf), leaf, 0), tree)


def _encodes(block, inputs):
    """Whether parameters enter the drive itself."""
    parameters, rest = eqx.partition(block, eqx.is_inexact_array)
    example = jax.tree.map(lambda leaf: leaf[0], inputs)
    traced = jax.make_jaxpr(lambda p: eqx.combine(p, rest).drive(example))(parameters).jaxpr
    used = {id(v) for equation in traced.eqns for v in equation.invars} | {id(v) for v in traced.outvars}
    return any(id(v) in used for v in traced.invars)


def _unstable(passes):
    """Which examples move too fast for the step, at the start of any block."""
    found = []
    for passed in passes:
        at = jax.tree.map(lambda leaf: leaf[:, 0], passed.drive)
        found.append(~(jax.vmap(lambda u, q, p, b=passed.block: sharpness(b, u, q, p))(at, *passed.begin) < 2))
    return jnp.any(jnp.stack(found), axis=0)


def _check_running(system, cost):
    last = _blocks(system)[-1]
    if isinstance(system, Stack) or not isinstance(cost, RunningCost) or not isinstance(last.window, EverySample):
        raise ValueError(
            "`CostNudged` echoes a single system with the window `EverySample` under a `RunningCost`, so that each "
            "sample has a cost of its own. For other costs use `nudge=Forced`."
        )


def _table(stencil):
    return stencil if isinstance(stencil, Stencil) else stencil.stencil


def _refusal(system, inputs, estimate, beta):
    """Why nothing is left of a batch, in words."""
    reason = next(
        item
        for item in (RESULT.diverged, RESULT.unstable_step, RESULT.not_retraced)
        if bool(np.any(estimate.result == item))
    )
    text = "No example of the batch gave an honest gradient. " + RESULT[reason]
    if reason != RESULT.not_retraced:
        return text
    example, lengths = jax.tree.map(lambda leaf: leaf[0], inputs), []
    for block in _blocks(system):
        lengths.append((honest_length(block, example, nudge=beta), block.length(example)))
        example = block.readout(run_features(block, example))
    honest, samples = min(lengths)
    return f"{text} For the first example the longest honest length is {honest} of {samples} samples."


def run_features(block: Hamiltonian, example: PyTree):
    """Features of one example's run."""
    drive, begin = jax.tree.map(lambda leaf: leaf[None], (block.drive(example), block.begin(example)))
    return run(block, drive, block.length(example), begin).features[0]
