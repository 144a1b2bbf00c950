r"""Whether a run comes back: how far an echo without nudge misses its start, for how long it does not, at which step.

Turning the momenta round makes the leapfrog retrace its own steps, but for rounding. On a chaotic system rounding grows
with time, until the echo misses its start by the size of the motion: beyond that length no echo says anything.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

from eqprop.motion import Hamiltonian
from eqprop.settle.base import real_dtype, rms
from eqprop.settle.leapfrog import drift
from eqprop.settle.stream import replay, run
from eqprop.system import Nudged, System

__all__ = ["hamiltonian_of", "honest_length", "retrace", "sharpness"]


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
            "reversible (magnetic or other forces besides the potential). Leave those forces out, or differentiate by "
            "`BackpropagationThroughTime`; friction of one rate for all momenta is `friction_rate`."
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
    force = jax.grad(system.potential)
    begin = system.begin(inputs)
    step = jnp.asarray(system.step, real_dtype(begin))
    points = length * system.substeps

    def forward(point, carry):
        *before, size = carry
        (position, momentum), _ = drift(system, tuple(before), step)
        momentum = momentum - step * force(position, _at(drive, point // system.substeps))
        return position, momentum, jnp.maximum(size, rms((position, momentum)))

    def backward(index, carry):
        position, momentum = carry
        momentum = momentum - step * force(position, _at(drive, (points - 1 - index) // system.substeps))
        return drift(system, (position, momentum), step, back=True)[0]

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


def _at(drive, index):
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, keepdims=False), drive)
