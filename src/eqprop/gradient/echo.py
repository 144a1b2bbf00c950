r"""Echo propagation: gradients of runs from initial values, in memory that does not grow with their length.

One run forward, then all legs of the stencil run back together, nudged, while the time integral of
$\partial H/\partial\theta$ is gathered as they go. What is contrasted is the same as in `EquilibriumPropagation` with
the solver `Echo`; only the path is never stored. In a `Stack` the echo of each block is driven by the gradient that the
block above it sends down.

Source:
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from eqprop.cost import RunningCost
from eqprop.equilibrium import RESULT
from eqprop.gradient.estimate import Estimate, Estimator, batch_size
from eqprop.gradient.stencil import RandomSign, Stencil
from eqprop.motion import EverySample, Hamiltonian, Stack
from eqprop.settle.base import Solver
from eqprop.settle.echo import PathEquilibrium, Run, hamiltonian_of, honest_length, replay, run, sharpness
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
            means the same for large and for small errors. For `Forced`.
        accuracy: An example is refused (`RESULT.not_retraced`) where the mean of its legs misses the start by more than
            this fraction of what the nudge moved them, or the nudge moved them by more than this fraction of size.
    """

    stencil: Stencil | RandomSign
    nudge: Nudge = eqx.field(static=True, default=Forced)
    normalised: bool = False
    accuracy: float = 0.3

    def __check_init__(self):
        if self.nudge not in (Forced, CostNudged):
            raise ValueError("`EchoPropagation.nudge` must be `Forced` or `CostNudged`.")
        if isinstance(self.stencil, Stencil) and jnp.iscomplexobj(self.stencil.nodes):
            raise ValueError("`EchoPropagation` runs real motions; give a real stencil, such as `symmetric(1e-4)`.")
        if self.normalised and self.nudge is CostNudged:
            raise ValueError(
                "`normalised` scales the constant force of `Forced`; a cost's own nudge has no such scale."
            )

    @property
    def solver(self) -> Solver:
        """What runs the free phase, where only that is wanted."""
        return Run()

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

    @property
    def solver(self) -> Solver:
        """What runs the system, where only that is wanted."""
        return Run()

    def estimate(self, system, cost, inputs, targets, start, key):
        del start, key
        return _through_time(system, cost, inputs, targets)


def _blocks(system):
    return system.blocks if isinstance(system, Stack) else (system,)


def _run_blocks(system, inputs):
    """Each block's (inputs, drive, samples, begin, end), and the outputs."""
    passes = []
    for block in _blocks(system):
        samples = block.length(jax.tree.map(lambda leaf: leaf[0], inputs))
        drive, begin = jax.vmap(block.drive)(inputs), jax.vmap(block.begin)(inputs)
        end = run(block, drive, samples, begin)
        passes.append((inputs, drive, samples, begin, end))
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
        return jnp.mean(costs), (outputs, [p[-1] for p in passes])

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
    passes, outputs = _run_blocks(system, inputs)
    ends = [p[-1] for p in passes]
    finite = _finite(ends, examples)
    costs, slope = jax.vmap(jax.value_and_grad(cost))(outputs, targets)

    def back(good):
        """All blocks' echoes, the last first: gradient, end points of the legs, and which examples came back."""
        cotangent, gradients, backs, fine = _only(good, slope), [], [], good
        scale = 1 / jnp.maximum(jnp.sum(good), 1).astype(costs.dtype)
        for number in reversed(range(len(passes))):
            block = _blocks(system)[number]
            gradient, cotangent, legs, retraced = _echo_block(
                propagate, stencil, block, passes[number], cotangent, good, scale, cost, targets, first=number == 0
            )
            gradients, backs, fine = [gradient, *gradients], [legs, *backs], fine & retraced
        return gradients, backs, fine

    def pending(loop):
        return ~loop[-1]

    def again(loop):
        good = loop[0]
        gradients, backs, fine = back(good)
        return fine, gradients, backs, jnp.all(fine == good)

    # A second pass only if examples were refused: it leaves them out. Examples do not touch each other.
    shape = eqx.filter_eval_shape(back, finite)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape[:2])
    good, gradients, backs, _ = jax.lax.while_loop(pending, again, (finite, *empty, jnp.zeros((), bool)))

    def outcome(finite, good, unstable):
        kept = RESULT.where(good, RESULT.settled, RESULT.not_retraced)
        return RESULT.where(unstable, RESULT.unstable_step, RESULT.where(finite, kept, RESULT.diverged))

    unstable = jax.lax.cond(jnp.all(good), jnp.zeros_like, lambda g: _unstable(system, passes) & ~g, good)
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


def _echo_block(propagate, stencil, block, passed, cotangent, good, scale, cost, targets, first):
    """One block's echo, and the chain rule around it: readout above, drive and initial values below."""
    inputs, drive, samples, begin, end = passed
    parameters, rest = eqx.partition(block, eqx.is_inexact_array)
    nodes, table = (leaf.astype(end.position.dtype) for leaf in (stencil.nodes, stencil.weights))
    # States are masked, the drive is not: it would be copied whole, and is finite (a batch with gaps is refused).
    begin, end = _only(good, begin), _only(good, end)
    example_weight = jnp.where(good, scale, 0)

    def read(parameters, features):
        return jax.vmap(eqx.combine(parameters, rest).readout)(features)

    weighted = jax.tree.map(lambda c: c * example_weight.reshape(-1, *(1,) * (c.ndim - 1)).astype(c.dtype), cotangent)
    above = jax.vjp(lambda p: read(p, end.features), parameters)[1](weighted)[0]
    force = jax.vjp(lambda f: read(parameters, f), end.features)[1](cotangent)[0]
    norm = jnp.sqrt(jnp.sum(force**2, axis=tuple(range(1, force.ndim))))
    if propagate.normalised:
        force = force / jnp.where(norm > 0, norm, 1).reshape(-1, *(1,) * (force.ndim - 1))
        example_weight = example_weight * norm
    if propagate.nudge is CostNudged:
        nudge = _cost_nudge(nodes, cost, targets)
        above = jax.tree.map(jnp.zeros_like, above)
    else:
        nudge = _forced_nudge(nodes, force, samples, block.window)

    learn_drive = jax.tree.leaves(drive) != [] and (not first or _encodes(block, inputs))
    back = replay(block, drive, samples, end, nudge, table[:, None] * example_weight[None], learn_drive=learn_drive)
    leg_weights = table[:, None, None] * example_weight[None, :, None]
    start_gradient = (jnp.sum(leg_weights * back.momentum, axis=0), -jnp.sum(leg_weights * back.position, axis=0))
    miss, retraced = _judge(stencil, back, begin, end, samples * block.substeps, propagate.accuracy, end.position.dtype)

    def enter(parameters, inputs):
        model = eqx.combine(parameters, rest)
        entered = jax.vmap(model.begin)(inputs)
        return (entered, jax.vmap(model.drive)(inputs)) if learn_drive else (entered, None)

    cotangents = (start_gradient, back.drive_gradient if learn_drive else None)
    floating, other = eqx.partition(inputs, eqx.is_inexact_array)
    pulled = jax.vjp(lambda p, x: enter(p, eqx.combine(x, other)), parameters, floating)[1](cotangents)
    gradient = jax.tree.map(lambda *parts: sum(parts), back.gradient, above, pulled[0])
    lower = None
    if not first:
        # The cotangent that goes down is that of one example's cost: the mean's weight is put on once, above.
        lower = jax.tree.map(lambda c: c / scale.astype(c.dtype), pulled[1])
    return gradient, lower, ((back.position, back.momentum), miss), retraced | ~good


def _forced_nudge(nodes, force, samples, window):
    def nudge(model, sample, readings):
        del model
        if isinstance(window, EverySample):
            here = jax.lax.dynamic_index_in_dim(force, sample, 1, keepdims=False)
        else:
            here = jnp.einsum("r,br...->b...", window.weights(sample, samples).astype(force.dtype), force)
        pairing = jnp.sum(here[None] * readings, axis=tuple(range(2, readings.ndim)))
        return nodes[:, None] * pairing

    return nudge


def _cost_nudge(nodes, cost, targets):
    def nudge(model, sample, readings):
        wanted = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, sample, 1, keepdims=False), targets)

        def one(reading, target):
            return cost.at(sample, model.readout(reading[None])[0], target)

        return nodes[:, None] * jax.vmap(lambda leg: jax.vmap(one)(leg, wanted))(readings)

    return nudge


def _judge(stencil, back, begin, end, points, accuracy, dtype):
    """How far the echoes miss the start, and whether that is little beside what the nudge did."""
    legs = jnp.concatenate([back.position, back.momentum], axis=-1)
    origin = jnp.concatenate(begin, axis=-1)
    size = jnp.maximum(_rms(origin), _rms(jnp.concatenate([end.position, end.momentum], axis=-1)))
    centre = legs[0] if stencil.starts_free else jnp.mean(legs, axis=0)
    moved = jnp.max(_rms(legs - centre[None]), axis=0)
    miss = _rms(centre - origin)
    floor = 64 * float(jnp.finfo(dtype).eps) * points**0.5 * size
    retraced = (miss <= accuracy * moved + floor) & (moved <= accuracy * jnp.maximum(size, 1e-3))
    return miss, retraced


def _rms(values):
    return jnp.sqrt(jnp.mean(values**2, axis=-1))


def _only(good, tree):
    def keep(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(good.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(keep, tree)


def _encodes(block, inputs):
    """Whether parameters enter the drive itself."""
    parameters, rest = eqx.partition(block, eqx.is_inexact_array)
    example = jax.tree.map(lambda leaf: leaf[0], inputs)
    traced = jax.make_jaxpr(lambda p: eqx.combine(p, rest).drive(example))(parameters).jaxpr
    used = {id(v) for equation in traced.eqns for v in equation.invars} | {id(v) for v in traced.outvars}
    return any(id(v) in used for v in traced.invars)


def _unstable(system, passes):
    """Which examples move too fast for the step, at the start of any block."""
    found = []
    for block, (_, drive, _, begin, _) in zip(_blocks(system), passes, strict=True):
        at = jax.tree.map(lambda leaf: leaf[:, 0], drive)
        found.append(~(jax.vmap(lambda u, q, p, b=block: sharpness(b, u, q, p))(at, *begin) < 2))
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
