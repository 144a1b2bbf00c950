r"""The echo: a run forward, the momenta turned round, and the same machine run back under a nudge.

Turning the momenta makes the leapfrog retrace its own steps, to rounding. A replay nudged by $\beta c$ leaves that
path, and shares its end with it, so that no boundary term is left and

$$\frac{dC}{d\theta} = \frac{d}{d\beta}\int\frac{\partial H}{\partial\theta}\,dt, \qquad
\frac{dC}{dq_0} = -\frac{d}{d\beta}P_{\mathrm{echo}}, \qquad \frac{dC}{dp_0} = -\frac{d}{d\beta}q_{\mathrm{echo}}$$

at the end of the replay. The limit $\beta \to 0$ is the derivative of the discrete map itself, for any step.

Here are the streams that hold one point of a path at a time (`run`, `replay`: all examples of a batch and all legs of a
stencil together), and `Echo`, which stores the path and so serves any estimator.

Source:
    V. Lopez-Pastor and F. Marquardt, Self-learning machines based on Hamiltonian echo backpropagation, 2023;
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium
from eqprop.motion import EverySample, Hamiltonian, PhasePath, RunEnd, Stack
from eqprop.settle.base import Solver, real_dtype, rms, rounding
from eqprop.system import Nudged, System

__all__ = [
    "Echo",
    "PathEquilibrium",
    "Replay",
    "Run",
    "hamiltonian_of",
    "honest_length",
    "replay",
    "retrace",
    "run",
    "sharpness",
]

Point = tuple[Inexact[Array, "*batch coordinate"], Inexact[Array, "*batch coordinate"]]


class Replay(eqx.Module):
    """What a replay leaves: gradients, and where the legs came back to."""

    gradient: PyTree
    """Weighted sum over legs and examples of the time integral of dH/dtheta; a tree like the system."""
    position: Inexact[Array, "leg batch coordinate"]
    momentum: Inexact[Array, "leg batch coordinate"]
    """Turned round again: to be compared with the initial momentum."""
    drive_gradient: PyTree
    """Weighted sum over legs of dH/du for each sample of the drive, where it was asked for. [batch, sample, ...]"""


def run(system: Hamiltonian, drive: PyTree, samples: int, begin: Point) -> RunEnd:
    """Run a batch forward from `begin`, one point in memory at a time.

    Args:
        system: The system.
        drive: Leading axes [batch, sample]; None for an undriven run.
        samples: Number of samples.
        begin: Initial positions and momenta, leading axis the batch.
    """
    position, momentum = begin
    keeps = isinstance(system.window, EverySample)
    shape = jax.eval_shape(jax.vmap(system.reading), position)
    empty = None if keeps else system.window.start(shape, samples)
    # The window's rows come before the batch; features are turned at the end.

    # Samples are counted in the carry: an array of their numbers would grow with the run.
    def sample(carry, _):
        position, momentum, rows, index = carry
        at = _at(drive, index, 1)
        position, momentum = _kicks(system, at, index, samples, position, momentum)
        reading = jax.vmap(system.reading)(position)
        if keeps:
            return (position, momentum, rows, index + 1), reading
        weights = system.window.weights(index, samples).astype(reading.dtype)
        return (position, momentum, rows + weights[:, None, None] * reading[None], index + 1), None

    start = (position, momentum, empty, jnp.zeros((), jnp.int32))
    (position, momentum, rows, _), readings = jax.lax.scan(sample, start, length=samples)
    return RunEnd(position, momentum, jnp.moveaxis(readings if keeps else rows, 0, 1))


def _kicks(system, drive, sample, samples, position, momentum):
    """The drifts and kicks of one sample."""
    force = jax.vmap(jax.grad(system.potential))
    velocity = jax.vmap(jax.grad(system.kinetic))

    def one(point, inner):
        position, momentum = point
        drift, kick = _weights(system, sample, inner, samples, position.dtype)
        position = position + drift * velocity(momentum)
        return (position, momentum - kick * force(position, drive)), None

    if system.substeps == 1:
        return one((position, momentum), 0)[0]
    return jax.lax.scan(one, (position, momentum), jnp.arange(system.substeps, dtype=jnp.int32))[0]


def _weights(system, sample, inner, samples, dtype):
    """Length of the drift before, and of the kick at, one point: none before the first, half kicks at both ends."""
    point = sample * system.substeps + inner
    first, last = point == 0, point == samples * system.substeps - 1
    step = jnp.asarray(system.step, dtype)
    return jnp.where(first, 0, step), jnp.where(first | last, step / 2, step)


def replay(
    system: Hamiltonian,
    drive: PyTree,
    samples: int,
    end: RunEnd,
    nudge: Callable[[Hamiltonian, Int[Array, ""], Inexact[Array, "leg batch reading"]], Inexact[Array, "leg batch"]]
    | None,
    weights: Float[Array, "leg batch"],
    *,
    learn: bool = True,
    learn_drive: bool = False,
) -> Replay:
    """Run all legs back from the end of a run.

    Args:
        system: The system; `learn` asks for the gradient in its inexact arrays.
        drive: As in `run`.
        samples: As in `run`.
        end: Where the run ended.
        nudge: Of (system, sample, readings): the nudging energy of each leg and example at the end of that sample.
            None for a replay without nudge.
        weights: Of each leg and example in the gradients.
        learn: Whether to gather the gradient in the parameters.
        learn_drive: Whether to gather the gradient in the drive.
    """
    legs = weights.shape[0]
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    parameters = jax.lax.stop_gradient(parameters)
    position, momentum = (jnp.broadcast_to(leaf, (legs, *leaf.shape)) for leaf in (end.position, -end.momentum))

    def potential(parameters, position, drive):
        model = eqx.combine(parameters, rest)
        return jax.vmap(lambda q: jax.vmap(model.potential)(q, drive))(position)

    def nudging(parameters, position, sample):
        assert nudge is not None
        model = eqx.combine(parameters, rest)
        return nudge(model, sample, jax.vmap(jax.vmap(model.reading))(position))

    def kinetic(parameters, momentum):
        return jax.vmap(jax.vmap(eqx.combine(parameters, rest).kinetic))(momentum)

    def point(carry, inner, drive, sample, nudged):
        position, momentum, gathered, drive_gathered = carry
        drift, kick = _weights(system, sample, inner, samples, position.dtype)

        def energy(parameters, position, drive):
            total = kick * potential(parameters, position, drive)
            return total + nudging(parameters, position, sample) if nudged and nudge is not None else total

        def summed(parameters, position, drive):
            return jnp.sum(energy(parameters, position, drive))

        def weighted(parameters, position, drive):
            return jnp.sum(weights * energy(parameters, position, drive))

        momentum = momentum - jax.grad(summed, argnums=1)(parameters, position, drive)
        if learn:
            here = jax.grad(weighted)(parameters, position, drive)
            moving = jax.grad(lambda theta: drift * jnp.sum(weights * kinetic(theta, momentum)))(parameters)
            gathered = jax.tree.map(lambda g, a, b: g + a + b, gathered, here, moving)
        if learn_drive:
            change = jax.grad(weighted, argnums=2)(parameters, position, drive)
            drive_gathered = jax.tree.map(jnp.add, drive_gathered, change)
        velocity = jax.grad(lambda p: jnp.sum(kinetic(parameters, p)))(momentum)
        return position + drift * velocity, momentum, gathered, drive_gathered

    def sample(carry, _):
        *carry, index = carry
        at = _at(drive, index, 1)
        nothing = jax.tree.map(jnp.zeros_like, at) if learn_drive else None
        # The reading belongs to the last kick of a sample, which comes first on the way back.
        inside = point((*carry, nothing), system.substeps - 1, at, index, True)
        if system.substeps > 1:
            inside = jax.lax.scan(
                lambda c, inner: (point(c, inner, at, index, False), None),
                inside, jnp.arange(system.substeps - 1, dtype=jnp.int32), reverse=True,
            )[0]  # fmt: skip
        return (*inside[:3], index - 1), inside[3]

    gathered = jax.tree.map(jnp.zeros_like, parameters) if learn else None
    start = (position, momentum, gathered, jnp.asarray(samples - 1, jnp.int32))
    (position, momentum, gathered, _), drives = jax.lax.scan(sample, start, length=samples, reverse=True)
    drives = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), drives)
    return Replay(gathered, position, -momentum, drives)


def _at(tree, index, axis):
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, axis, keepdims=False), tree)


def hamiltonian_of(system: System, doing: str = "`Echo`") -> Hamiltonian:
    """The Hamiltonian system below any nudges.

    Raises:
        ValueError: if there is none, or it is not reversible.
    """
    while isinstance(system, Nudged):
        system = system.system
    name = type(system).__name__
    if not isinstance(system, Hamiltonian):
        raise ValueError(f"{doing} runs `Hamiltonian` systems forward and back; `{name}` is not one.")
    if not system.reversible:
        raise ValueError(
            f"{doing} needs a motion that runs back when its momenta are turned, and `{name}` declares that it is not "
            "reversible (friction, magnetic or other forces besides the potential). Leave those forces out, or "
            "differentiate by `BackpropagationThroughTime`."
        )
    return system


@eqx.filter_jit
def retrace(system: Hamiltonian, inputs: PyTree, length: int | None = None) -> Float[Array, ""]:
    """How far a run, turned round without a nudge, misses its start: root mean square over the phase space.

    Args:
        system: The system.
        inputs: Inputs of one example.
        length: Number of samples, all of them by default.
    """
    system = hamiltonian_of(system, "`retrace`")
    samples = system.length(inputs) if length is None else length
    drive, begin = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (system.drive(inputs), system.begin(inputs)))
    end = run(system, drive, samples, begin)
    back = replay(system, drive, samples, end, None, jnp.zeros((1, 1), end.position.dtype), learn=False)
    return rms((back.position[0] - begin[0], back.momentum[0] - begin[1]))


def honest_length(system: Hamiltonian, inputs: PyTree, *, tolerance: float | None = None, nudge: float = 0.0) -> int:
    """The longest run, in samples, whose echo comes back to its start.

    Args:
        system: The system.
        inputs: Inputs of one example.
        tolerance: Largest root-mean-square distance that counts as back, relative to the size of the motion;
            the square root of the rounding unit by default.
        nudge: A push on the momenta where the echo begins, about beta times the force; it may move the end of the echo
            by a tenth of the motion's size at most.

    Returns:
        A number of samples, at most that of the inputs; found by bisection, one run and two replays for each trial.
    """
    samples = system.length(inputs)
    rounding_unit = float(jnp.finfo(real_dtype(system.begin(inputs))).eps)
    largest = rounding_unit**0.5 if tolerance is None else tolerance

    def honest(length):
        miss, moved = _retrace_to(system, inputs, jnp.asarray(length), jnp.asarray(nudge))
        return float(miss) <= largest and float(moved) <= 0.1

    if honest(samples):
        return samples
    good, bad = 0, samples
    while bad - good > max(1, good // 20):
        middle = (good + bad) // 2 if good else max(bad // 4, 1)
        good, bad = (middle, bad) if honest(middle) else (good, middle)
        if bad == 1:
            break
    return good


@eqx.filter_jit
def _retrace_to(system, inputs, length, nudge):
    """Misses of a plain and of a nudged echo over the size of the motion, for a length that is an array.

    One compilation serves all lengths. The kicks at both ends are whole here, which the echo does not mind.
    """
    drive = system.drive(inputs)
    force, velocity = jax.grad(system.potential), jax.grad(system.kinetic)
    begin = system.begin(inputs)
    step = jnp.asarray(system.step, real_dtype(begin))
    points = length * system.substeps

    def forward(point, carry):
        position, momentum, size = carry
        position = position + step * velocity(momentum)
        momentum = momentum - step * force(position, _at(drive, point // system.substeps, 0))
        return position, momentum, jnp.maximum(size, rms((position, momentum)))

    def backward(index, carry):
        position, momentum = carry
        momentum = momentum - step * force(position, _at(drive, (points - 1 - index) // system.substeps, 0))
        return position + step * velocity(momentum), momentum

    def echo(momentum):
        back, turned = jax.lax.fori_loop(0, points, backward, (position, momentum))
        return rms((back - begin[0], -turned - begin[1])) / size

    position, momentum, size = jax.lax.fori_loop(0, points, forward, (*begin, rms(begin)))
    return echo(-momentum), echo(-momentum + nudge.astype(momentum.dtype))


def sharpness(
    system: Hamiltonian, drive: PyTree, position: Inexact[Array, " coordinate"], momentum: Inexact[Array, " coordinate"]
) -> Float[Array, ""]:
    """The highest frequency of small motions about a point, times the step; leapfrog is unstable above 2."""
    force, velocity = (lambda q: jax.grad(system.potential)(q, drive)), jax.grad(system.kinetic)
    index = jnp.arange(position.shape[0], dtype=position.dtype)
    vector = jnp.cos(1.7 * index + 0.3)

    def power(_, carried):
        vector, _ = carried
        moved = jax.jvp(velocity, (momentum,), (jax.jvp(force, (position,), (vector,))[1],))[1]
        norm = jnp.linalg.norm(moved)
        return moved / jnp.where(norm > 0, norm, 1), norm

    vector = vector / jnp.linalg.norm(vector)
    square = jax.lax.fori_loop(0, 30, power, (vector, jnp.zeros((), position.dtype)))[1]
    return system.step * jnp.sqrt(square)


class PathEquilibrium(AbstractEquilibrium):
    """A path in phase space, stored; `residual` is how far the echo still was from rest when it stopped."""

    state: PyTree
    result: RESULT
    residual: Inexact[Array, "*batch"]
    steps: Int[Array, "*batch"]

    @property
    def restart(self) -> PyTree:
        """The path itself; a nudged phase takes its end."""
        return self.state

    def expect(self, fn):
        """`fn` of the path."""
        return fn(self.state)


class Echo(Solver):
    """Runs a `Hamiltonian` system: the free phase forward, a nudged one as an echo from the free path's end.

    The path is stored, so any nudge and any estimator will do; memory grows with the run. `EchoPropagation` gives the
    same gradients without storing it. Nudges that depend on the path (the cost's own, at the replayed state) are
    iterated to self-consistency, within `rtol` of the displacement.

    A free phase is settled if its unnudged echo comes back to its start within `retrace` of its own size.
    """

    rtol: float = 1e-10
    max_steps: int = 30
    retrace: float = 1e-5

    def solve(self, system, inputs, start, *, free, key):
        del key
        base = hamiltonian_of(system)
        if free is None:
            return self._free(base, inputs)
        return self._nudged(system, base, inputs, free)

    def _free(self, base, inputs):
        begin = base.begin(inputs)
        path = _forward(base, inputs, begin)
        back = _backward(base, inputs, path, jnp.zeros_like(path.position))
        miss = rms((back.position[0] - begin[0], back.first - begin[1]))
        finite = jnp.isfinite(rms(path))
        drive = _at(base.drive(inputs), 0, 0)
        unstable = ~(sharpness(base, drive, *begin) < 2)
        result = RESULT.where(miss <= self.retrace * rms(path), RESULT.settled, RESULT.not_retraced)
        result = RESULT.where(finite, result, RESULT.diverged)
        result = RESULT.where(unstable, RESULT.unstable_step, result)
        return PathEquilibrium(path, result, miss, jnp.asarray(path.position.shape[0], jnp.int32))

    def _nudged(self, system, base, inputs, free):
        def push(path):
            return system.force(path).position

        def unfinished(loop):
            _, _, change, moved, steps = loop
            return (steps < self.max_steps) & ~(change <= self.rtol * moved + rounding(free.state))

        def again(loop):
            path, impulse, _, _, steps = loop
            new = _backward(base, inputs, free.state, impulse)
            change = rms(jax.tree.map(jnp.subtract, new, path))
            return new, push(new), change, rms(jax.tree.map(jnp.subtract, new, free.state)), steps + 1

        zero, infinite = (jnp.full((), value, real_dtype(free.state)) for value in (0.0, jnp.inf))
        loop = (free.state, push(free.state), infinite, zero, jnp.zeros((), jnp.int32))
        path, _, change, moved, steps = jax.lax.while_loop(unfinished, again, loop)
        done = change <= self.rtol * moved + rounding(free.state)
        unsettled = RESULT.where(jnp.isfinite(change), RESULT.max_steps_reached, RESULT.diverged)
        return PathEquilibrium(path, RESULT.where(done, RESULT.settled, unsettled), change, steps)


def _by_kick(base, inputs, points, dtype):
    drive = jax.tree.map(lambda leaf: jnp.repeat(leaf, base.substeps, axis=0), base.drive(inputs))
    step = jnp.asarray(base.step, dtype)
    ends = jnp.zeros(points, bool).at[jnp.array([0, -1])].set(True)
    return drive, step, jnp.where(ends, step / 2, step)


def _forward(base, inputs, begin):
    """The stored path of a free run."""
    position, momentum = begin
    points = base.length(inputs) * base.substeps
    drive, step, kicks = _by_kick(base, inputs, points, position.dtype)
    force, velocity = jax.grad(base.potential), jax.grad(base.kinetic)
    after = momentum - kicks[0] * force(position, _at(drive, 0, 0))

    def advance(point, here):
        position, momentum = point
        kick, drive = here
        position = position + step * velocity(momentum)
        return (position, momentum - kick * force(position, drive)), (position, momentum)

    later = jax.tree.map(lambda leaf: leaf[1:], (kicks, drive))
    (_, last), (positions, momenta) = jax.lax.scan(advance, (position, after), later)
    return PhasePath(jnp.concatenate([position[None], positions]), momenta, momentum, last)


def _backward(base, inputs, path, impulse):
    """The stored path of an echo from the end of `path`, `impulse` [point, coordinate] being added to the kicks."""
    points = path.position.shape[0]
    drive, step, kicks = _by_kick(base, inputs, points, path.position.dtype)
    force, velocity = jax.grad(base.potential), jax.grad(base.kinetic)

    def turn(position, turned, here):
        kick, push, drive = here
        return turned - kick * force(position, drive) + push

    def advance(point, here):
        position, turned = point
        moved = position + step * velocity(turned)
        return (moved, turn(moved, turned, here)), (moved, -turned)

    here = jax.tree.map(lambda leaf: leaf[-1], (kicks, impulse, drive))
    start = (path.position[-1], turn(path.position[-1], -path.last, here))
    earlier = jax.tree.map(lambda leaf: leaf[:-1], (kicks, impulse, drive))
    (_, turned), (positions, momenta) = jax.lax.scan(advance, start, earlier, reverse=True)
    positions = jnp.concatenate([positions, path.position[-1:]])
    return PhasePath(positions, momenta, -turned, path.last)


class Run(Solver):
    """Runs a `Hamiltonian` system, or a `Stack`, forward without storing the path: what evaluation needs."""

    def solve(self, system, inputs, start, *, free, key):
        del start, key
        if free is not None:
            raise ValueError(
                "`Run` only runs forward; nudged phases take `Echo`, and whole gradients `EchoPropagation`."
            )
        ends = []
        blocks = system.blocks if isinstance(system, Stack) else (hamiltonian_of(system, "`Run`"),)
        for block in blocks:
            drive, begin = jax.tree.map(lambda leaf: leaf[None], (block.drive(inputs), block.begin(inputs)))
            end = jax.tree.map(lambda leaf: leaf[0], run(block, drive, block.length(inputs), begin))
            inputs = block.output(end)
            ends.append(end)
        state = tuple(ends) if isinstance(system, Stack) else ends[0]
        finite = jnp.isfinite(rms(state))
        residual = jnp.where(finite, 0, jnp.inf).astype(real_dtype(state))
        result = RESULT.where(finite, RESULT.settled, RESULT.diverged)
        return PathEquilibrium(state, result, residual, jnp.ones((), jnp.int32))
