r"""Echo propagation: gradients of runs from initial values, in memory that does not grow with their length.

One run forward, then all nudged legs of the stencil run back together, while the time integral of
$\partial H/\partial\theta$ is gathered as they go. An unnudged leg would retrace the run, so that a one-sided stencil
gathers its free sums on the way forward. What is contrasted is the same as in `EquilibriumPropagation` with the solver
`Echo`; only the path is never stored. In a `Stack` the echo of each block is driven by the gradient that the
block above it sends down.

With friction the echo gains where the run lost, and every term of the sums has the weight $e^{\gamma(t - T)}$. That is
exact too as beta goes to zero, but nudge and rounding grow by $e^{\gamma T}$ on the way back: beta must be smaller by
as much.

Source:
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from eqprop.cost import RunningCost
from eqprop.equilibrium import RESULT
from eqprop.gradient.echo_block import BlockRun, echo_block, only
from eqprop.gradient.estimate import Estimate, Estimator, batch_size
from eqprop.gradient.stencil import RandomSign, Stencil
from eqprop.motion import EverySample, Stack
from eqprop.settle.base import Solver
from eqprop.settle.leapfrog import gain
from eqprop.settle.retrace import hamiltonian_of, honest_length, sharpness
from eqprop.settle.run import PathEquilibrium, Run, blocks_of, ended, run_batch
from eqprop.settle.stream import run, run_and_gather
from eqprop.system import CostNudged, Forced, Nudge, System

__all__ = ["EchoPropagation", "respond"]

_LARGEST_NOISE = 1e-3
"""Rounding times the gain of an echo; the best beta leaves a relative error of about its power 2/3, one percent."""


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
        for block in blocks_of(system):
            hamiltonian_of(block, "`EchoPropagation`")
        if self.nudge is CostNudged:
            _check_running(system, cost)
        estimate = _echo(self, system, cost, inputs, targets, key)
        if not isinstance(estimate.value, Tracer) and not np.asarray(estimate.settled).any():
            raise RuntimeError(_refusal(system, inputs, estimate, float(jnp.max(jnp.abs(_table(self.stencil).nodes)))))
        return estimate


def _run_blocks(system, inputs, *, gather, ends=None, learn_inputs=False):
    """The runs of the blocks (unless it is known how they end), and the outputs."""
    runs = []
    for number, block in enumerate(blocks_of(system)):
        samples = block.length(jax.tree.map(lambda leaf: leaf[0], inputs))
        drive, begin = jax.vmap(block.drive)(inputs), jax.vmap(block.begin)(inputs)
        _check_gain(block, samples, begin[0].dtype)
        learn_drive = jax.tree.leaves(drive) != [] and (learn_inputs or number > 0 or _encodes(block, inputs))
        if gather:
            ones = jnp.ones(batch_size(inputs), begin[0].dtype)
            end, gathered = run_and_gather(block, drive, samples, begin, ones, learn_drive=learn_drive)
        else:
            end, gathered = (run(block, drive, samples, begin) if ends is None else ends[number]), None
        runs.append(BlockRun(block, inputs, drive, samples, begin, end, learn_drive, gathered))
        inputs = jax.vmap(block.readout)(end.features)
    return runs, inputs


def _value(costs, good):
    mean = jnp.sum(jnp.where(good, costs, 0)) / jnp.maximum(jnp.sum(good), 1).astype(costs.dtype)
    return jnp.where(jnp.any(good), mean, jnp.nan)


@eqx.filter_jit
def _echo(propagate, system, cost, inputs, targets, key):
    stencil = propagate.stencil.draw(key)
    examples = batch_size(inputs)
    runs, outputs = _run_blocks(system, inputs, gather=stencil.starts_free)
    ends = tuple(run.end for run in runs)
    free = jax.vmap(ended)(ends if isinstance(system, Stack) else ends[0])
    finite = free.settled
    costs, slope = jax.vmap(jax.value_and_grad(cost))(outputs, targets)

    def back(good):
        return _back(propagate, stencil, runs, only(good, slope), good, cost, targets)[:3]

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

    unstable = jax.lax.cond(jnp.all(good), jnp.zeros_like, lambda g: _unstable(runs) & ~g, good)
    result = jax.vmap(outcome)(finite, good, unstable)
    missed = jnp.max(jnp.stack([miss for _, miss in backs]), axis=0)
    free = PathEquilibrium(free.state, result, missed, free.steps)
    legs = stencil.nodes.shape[0]
    results, misses = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (legs, *leaf.shape)), (result, missed))
    nudged = PathEquilibrium([points for points, _ in backs], results, misses, jnp.ones((legs, examples), jnp.int32))
    return Estimate(_value(costs, good), _like(system, gradients), outputs, result, free, nudged)


def _back(propagate, stencil, runs, cotangent, good, cost, targets, *, learn_inputs=False):
    """All blocks' echoes, the last first.

    Gradients, end points of the legs, which examples came back, and the gradient in the inputs if it is asked for.
    """
    gradients, backs, fine = [], [], good
    scale = 1 / jnp.maximum(jnp.sum(good), 1).astype(runs[0].begin[0].dtype)
    for number, each in reversed(list(enumerate(runs))):
        gradient, cotangent, legs, retraced = echo_block(
            propagate, stencil, each, cotangent, good, scale, cost, targets, lower=learn_inputs or number > 0
        )
        gradients, backs, fine = [gradient, *gradients], [legs, *backs], fine & retraced
    return gradients, backs, fine, cotangent


def _like(system, gradients):
    """The blocks' gradients as a tree like the system."""
    if not isinstance(system, Stack):
        return gradients[0]
    return eqx.tree_at(lambda s: s.blocks, eqx.filter(system, eqx.is_inexact_array), tuple(gradients))


def respond(
    propagate: EchoPropagation,
    system: System,
    inputs: PyTree,
    end: PyTree,
    cotangent: PyTree,
    key: PRNGKeyArray | None,
) -> tuple[PyTree, Bool[Array, ""]]:
    """What a cotangent on the output of one example pulls back to system and inputs, and whether the echo came back.

    Args:
        propagate: How to echo; by `Forced`.
        system: The system.
        inputs: Inputs of the example.
        end: Where its free run ended (for a `Stack` of each block), as `Run` leaves it.
        cotangent: On the output.
        key: Where the stencil is random.
    """
    stencil = propagate.stencil.draw(key)
    ends = end if isinstance(system, Stack) else (end,)
    inputs, ends, cotangent = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (inputs, ends, cotangent))
    # The free sums of a one-sided stencil are gathered on a run of their own.
    gather = stencil.starts_free
    runs, _ = _run_blocks(system, inputs, gather=gather, ends=None if gather else ends, learn_inputs=True)
    gradients, _, fine, below = _back(
        propagate, stencil, runs, cotangent, jnp.ones(1, bool), None, None, learn_inputs=True
    )
    return (_like(system, gradients), jax.tree.map(lambda leaf: leaf[0], below)), fine[0]


def _encodes(block, inputs):
    """Whether parameters enter the drive itself."""
    parameters, rest = eqx.partition(block, eqx.is_inexact_array)
    example = jax.tree.map(lambda leaf: leaf[0], inputs)
    traced = jax.make_jaxpr(lambda p: eqx.combine(p, rest).drive(example))(parameters).jaxpr
    used = {id(v) for equation in traced.eqns for v in equation.invars} | {id(v) for v in traced.outvars}
    return any(id(v) in used for v in traced.invars)


def _unstable(runs):
    """Which examples move too fast for the step, at the start of any block."""
    found = []
    for each in runs:
        at = jax.tree.map(lambda leaf: leaf[:, 0], each.drive)
        found.append(~(jax.vmap(lambda u, q, p, block=each.block: sharpness(block, u, q, p))(at, *each.begin) < 2))
    return jnp.any(jnp.stack(found), axis=0)


def _check_gain(block, samples, dtype):
    """Refuse a run in which friction leaves nothing that could be amplified back."""
    largest = _LARGEST_NOISE / float(jnp.finfo(dtype).eps)
    amplified = gain(block, samples)
    if amplified > largest:
        longest = int(math.log(largest) / (block.friction_rate() * block.step * block.substeps))
        raise ValueError(
            f"Friction of rate {block.friction_rate():g} over the run makes the echo of `{type(block).__name__}` "
            f"amplify by {amplified:.1e}; above {largest:.0e} rounding in {dtype} leaves no gradient. Shorten the run "
            f"to {longest} of its {samples} samples, lower the friction, or differentiate by "
            "`BackpropagationThroughTime(Run())`."
        )


def _check_running(system, cost):
    last = blocks_of(system)[-1]
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
    for block in blocks_of(system):
        samples = block.length(example)
        lengths.append((honest_length(block, example, nudge=beta), samples))
        if (amplified := gain(block, samples)) > 1:
            text += f" Friction makes the echo amplify by {amplified:.1e}: beta must be smaller by as much."
        example = run_batch(block, jax.tree.map(lambda leaf: leaf[None], example))[1][0]
    honest, samples = min(lengths)
    return f"{text} For the first example the longest honest length is {honest} of {samples} samples."
