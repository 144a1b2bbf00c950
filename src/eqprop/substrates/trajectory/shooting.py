r"""Shots: paths of the discrete Euler-Lagrange equations from initial values, as starts of boundary-value problems.

$$\partial_2 L_d(q_{k-1}, q_k) + \partial_1 L_d(q_k, q_{k+1}) = 0$$

is solved for $q_{k+1}$ point by point; `shoot` then turns the initial velocity until the path meets its other end.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqprop.substrates.trajectory.ends import FixedEnds, GivenEnds
from eqprop.substrates.trajectory.path import Path, link_action

__all__ = ["shoot", "shot"]


@eqx.filter_jit
def shot(
    system: Path,
    inputs: PyTree,
    position: Float[Array, " coordinate"],
    velocity: Float[Array, " coordinate"],
    *,
    iterations: int = 8,
) -> Float[Array, "point coordinate"]:
    """All points of the path that leaves `position` with `velocity`.

    Args:
        system: The path's system; its ends are not looked at.
        inputs: Inputs of the example.
        position: At time 0.
        velocity: At time 0.
        iterations: Newton steps for each point; one is enough where the mass does not depend on the position.
    """
    drive = system._by_point(system.ends.drive(inputs))
    step, lagrangian = system.step, system.lagrangian

    def link(left, right, index):
        at = jax.tree.map(lambda leaf: leaf[index], drive)
        then = jax.tree.map(lambda leaf: leaf[index + 1], drive)
        begin = index.astype(position.dtype) * step
        return link_action(lagrangian, left, right, begin, begin + step, at, then)

    def next_point(arriving, here, guess, index):
        def mismatch(right):
            return arriving + jax.grad(link)(here, right, index)

        def improve(_, right):
            return right - jnp.linalg.solve(jax.jacfwd(mismatch)(right), mismatch(right))

        return jax.lax.fori_loop(0, iterations, improve, guess)

    def advance(carry, index):
        before, here, arriving = carry
        after = next_point(arriving, here, 2 * here - before, index)
        return (here, after, jax.grad(link, argnums=1)(here, after, index)), after

    time = jnp.zeros((), position.dtype)
    drive_first = jax.tree.map(lambda leaf: leaf[0], drive)
    momentum = jax.grad(lagrangian, argnums=1)(position, velocity, time, drive_first)
    before = position - step * velocity
    (_, _, _), later = jax.lax.scan(advance, (before, position, momentum), jnp.arange(system.steps))
    return jnp.concatenate([position[None], later])


def shoot(
    system: Path,
    inputs: PyTree,
    velocity: Float[Array, " coordinate"] | None = None,
    *,
    max_steps: int = 20,
) -> Float[Array, "free coordinate"]:
    """A start for a path between two held ends: the initial velocity is corrected until the shot meets the last end.

    Where shots are so sensitive that this fails, the best shot found is returned; `PathNewton` takes it from there.

    Args:
        system: A path with `FixedEnds` or `GivenEnds`.
        inputs: Inputs of the example.
        velocity: First guess; that of the straight line by default.
        max_steps: Newton steps on the velocity.

    Raises:
        ValueError: for other ends.
    """
    if not isinstance(system.ends, FixedEnds | GivenEnds):
        raise ValueError(f"`shoot` aims at a held end; `{type(system.ends).__name__}` holds none. Use `shot`.")
    held = system.ends.path(system.initial_state(inputs), inputs)
    first, last = held[0], held[-1]
    velocity = (last - first) / system.duration if velocity is None else velocity

    def miss(velocity):
        return shot(system, inputs, first, velocity)[-1] - last

    def correct(_, carry):
        velocity, best, size = carry
        wrong = miss(velocity)
        norm = jnp.linalg.norm(wrong)
        best, size = jnp.where(norm < size, velocity, best), jnp.where(norm < size, norm, size)
        change = jnp.linalg.solve(jax.jacfwd(miss)(velocity), wrong)
        return jnp.where(jnp.all(jnp.isfinite(change)), velocity - change, best), best, size

    infinite = jnp.full((), jnp.inf, first.dtype)
    _, best, _ = jax.lax.fori_loop(0, max_steps, correct, (velocity, velocity, infinite))
    return shot(system, inputs, first, best)[1:-1]
