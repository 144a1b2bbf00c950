r"""Newton's method for chains: stationary paths, of any index, with a block-tridiagonal second derivative.

The second derivative is found from $3d$ products with it (points of one colour have no common neighbour), so that
nudges need no structure of their own. It is eliminated block by block,

$$P_k = (D_k - L_k P_{k-1} U_{k-1})^{-1},$$

forward and back in a `lax.scan`; a closed chain is an open one bordered by its last point. Steps are damped on the norm
of the gradient: an action is neither a minimum nor a maximum, and following it downhill leads nowhere.

Source:
    L. H. Thomas, Elliptic problems in linear difference equations over a network, 1949 (block elimination);
    I. M. Gelfand and S. V. Fomin, Calculus of variations, 1963, chapter 5 (second variation, conjugate points).
"""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Inexact, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium, Equilibrium
from eqprop.motion import Chain
from eqprop.settle.base import Solver, real_dtype, rms, rounding, settle
from eqprop.system import Nudged, System, project

__all__ = ["Blocks", "PathNewton", "block_factor", "block_hessian", "block_solve", "follow"]


class Blocks(eqx.Module):
    """A block-tridiagonal matrix, cyclic for a closed chain (`lower[0]` and `upper[-1]` are its corners)."""

    lower: Inexact[Array, "point row column"]
    diagonal: Inexact[Array, "point row column"]
    upper: Inexact[Array, "point row column"]
    closed: bool = eqx.field(static=True)

    def apply(self, vector: Inexact[Array, "point column"]) -> Inexact[Array, "point row"]:
        """The product with a vector."""
        before, after = jnp.roll(vector, 1, axis=0), jnp.roll(vector, -1, axis=0)
        terms = ((self.lower, before), (self.diagonal, vector), (self.upper, after))
        return jnp.asarray(sum(jnp.einsum("kij,kj->ki", block, v) for block, v in terms))


class PathNewton(Solver):
    """Damped Newton iteration for a `Chain`; cost linear in the number of points.

    `residual` is the root mean square of the last Newton step. A path whose second variation is singular (a conjugate
    point, a resonance, or time translation of a periodic path without drive or pin) ends as `RESULT.singular`:
    `singular_below` is the smallest eigenvalue admitted, relative to the system's own stiffness.
    """

    rtol: float = 1e-9
    atol: float = 1e-10
    max_steps: int = 100
    max_halvings: int = 30
    singular_below: float = 1e-3

    def solve(self, system, inputs, start, *, free, key):
        del key
        closed = chain_of(system).closed
        slope, held = _slope(system, inputs), _held(system, start)

        def factor(path):
            blocks = _with_held(block_hessian(slope, path, closed), held)
            return blocks, block_factor(blocks)

        def residual(path):
            return slope(path) if held is None else jnp.where(held, 0, slope(path))

        def tolerance(path):
            if free is None:
                return jnp.maximum(self.atol + self.rtol * rms(path), rounding(path))
            return self.rtol * rms(path - free.restart) + rounding(path)

        def unfinished(loop):
            _, _, size, done, steps, _ = loop
            return ~done & (steps < self.max_steps) & ((steps == 0) | jnp.isfinite(size))

        def advance(loop):
            path, value, _, _, steps, _ = loop
            blocks, factors = factor(path)
            direction = -block_solve(factors, value[..., None])[..., 0]
            # Elimination does not pivot: one refinement takes back what a small pivot on the way has cost.
            direction = direction - block_solve(factors, (blocks.apply(direction) + value)[..., None])[..., 0]
            path, value = self._damped(system, residual, path, value, direction)
            size = rms(direction)
            return path, value, size, size <= tolerance(path), steps + 1, (blocks, factors)

        path = project(system, start)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), eqx.filter_eval_shape(factor, path))
        infinite = jnp.full((), jnp.inf, real_dtype(path))
        loop = (path, residual(path), infinite, jnp.zeros((), bool), jnp.zeros((), jnp.int32), empty)
        path, _, size, done, steps, (blocks, factors) = jax.lax.while_loop(unfinished, advance, loop)
        soft = ~(_softest(factors, held) > self.singular_below * _stiffness(blocks))
        result = RESULT.where(done, RESULT.settled, RESULT.max_steps_reached)
        result = RESULT.where(soft | ~jnp.isfinite(size), RESULT.singular, result)
        return Equilibrium(path, result, size, steps)

    def _damped(self, system, residual, path, value, direction):
        """The path after the longest of the steps 1, 1/2, 1/4 ... that lowers the norm of the residual."""
        before = jnp.linalg.norm(value)

        def worse(trial):
            _, _, after, halvings = trial
            return ~(jnp.linalg.norm(after) < before) & (halvings <= self.max_halvings) & (before > 0)

        def halve(trial):
            scale, _, _, halvings = trial
            moved = project(system, path + 0.5 * scale * direction)
            return 0.5 * scale, moved, residual(moved), halvings + 1

        first = (jnp.full((), 2.0, before.dtype), path, jnp.full_like(value, jnp.inf), 0)
        _, moved, after, _ = jax.lax.while_loop(worse, halve, first)
        better = jnp.linalg.norm(after) < before
        path, value = jnp.where(better, moved, path), jnp.where(better, after, value)
        return jnp.where(jnp.all(jnp.isfinite(direction)), path, jnp.nan), value


def chain_of(system: System) -> Chain:
    """The chain below any nudges.

    Raises:
        ValueError: if there is none.
    """
    while isinstance(system, Nudged):
        system = system.system
    if not isinstance(system, Chain):
        raise ValueError(
            f"`PathNewton` settles chains of points (`Path`, or a `Chain` of your own); `{type(system).__name__}` is "
            "not one. Use `Newton`."
        )
    return system


def block_hessian(slope, path: Inexact[Array, "point coordinate"], closed: bool) -> Blocks:
    """The second derivative of a chain's energy, from products of `slope`'s derivative with coloured vectors.

    Args:
        slope: First derivative of the energy, an array like the path.
        path: Where.
        closed: Whether the last point is a neighbour of the first.

    Raises:
        ValueError: for a closed chain of fewer than three points.
    """
    points, width = path.shape
    colours = _colours(points, closed)
    seeds = np.zeros((colours.max() + 1, width, points, width))
    for colour in range(colours.max() + 1):
        for coordinate in range(width):
            seeds[colour, coordinate, colours == colour, coordinate] = 1
    seeds = jnp.asarray(seeds, path.dtype)
    # products[colour, column, point, row]
    products = jax.vmap(jax.vmap(lambda v: jax.jvp(slope, (path,), (v,))[1]))(seeds)

    def blocks(colour):
        return jnp.swapaxes(products[colour, :, np.arange(points), :], 1, 2)

    lower, diagonal, upper = (blocks(np.roll(colours, shift)) for shift in (1, 0, -1))
    if not closed:
        lower, upper = lower.at[0].set(0), upper.at[-1].set(0)
    return Blocks(lower, diagonal, upper, closed)


def _colours(points, closed):
    """Colours such that a point and its two neighbours differ."""
    colours = np.arange(points) % 3
    if closed:
        if points < 3:
            raise ValueError(f"A closed path needs at least 3 points; got {points}. Raise `steps`.")
        spare = points % 3
        if spare:
            colours[-spare:] = 3 + np.arange(spare)
    return colours


class _Factors(eqx.Module):
    """What elimination leaves: inverse pivots, and for a closed chain the border."""

    blocks: Blocks
    inverse: Inexact[Array, "point row column"]
    border: tuple[Inexact[Array, "..."], Inexact[Array, "..."], Inexact[Array, "..."]] | None


def block_factor(blocks: Blocks) -> _Factors:
    """Eliminate; the factors serve any number of right-hand sides."""
    if not blocks.closed:
        return _Factors(blocks, _pivots(blocks), None)
    inner = Blocks(blocks.lower[:-1].at[0].set(0), blocks.diagonal[:-1], blocks.upper[:-1].at[-1].set(0), closed=False)
    opened = _Factors(inner, _pivots(inner), None)
    # The last point touches the first and the last of the others.
    into = jnp.zeros_like(inner.diagonal).at[0].add(blocks.lower[0]).at[-1].add(blocks.upper[-2])
    response = block_solve(opened, into)
    first, last = blocks.upper[-1], blocks.lower[-1]
    corner = blocks.diagonal[-1] - first @ response[0] - last @ response[-1]
    return _Factors(blocks, opened.inverse, (response, jnp.linalg.inv(corner), jnp.stack([first, last])))


def _pivots(blocks):
    def eliminate(before, here):
        lower, diagonal, upper_before = here
        inverse = jnp.linalg.inv(diagonal - lower @ before @ upper_before)
        return inverse, inverse

    nothing = jnp.zeros_like(blocks.diagonal[0])
    upper_before = jnp.concatenate([nothing[None], blocks.upper[:-1]])
    return jax.lax.scan(eliminate, nothing, (blocks.lower, blocks.diagonal, upper_before))[1]


def block_solve(factors: _Factors, right: Inexact[Array, "point row side"]) -> Inexact[Array, "point row side"]:
    """The solution for each of the right-hand sides."""
    if factors.border is None:
        return _substitute(factors.blocks, factors.inverse, right)
    response, corner, touch = factors.border
    blocks = factors.blocks
    inner = Blocks(blocks.lower[:-1].at[0].set(0), blocks.diagonal[:-1], blocks.upper[:-1].at[-1].set(0), closed=False)
    alone = _substitute(inner, factors.inverse, right[:-1])
    last = corner @ (right[-1] - touch[0] @ alone[0] - touch[1] @ alone[-1])
    return jnp.concatenate([alone - response @ last, last[None]])


def _substitute(blocks, inverse, right):
    def down(before, here):
        lower, pivot, side = here
        value = pivot @ (side - lower @ before)
        return value, value

    def up(after, here):
        pivot, upper, value = here
        solved = value - pivot @ (upper @ after)
        return solved, solved

    nothing = jnp.zeros_like(right[0])
    reduced = jax.lax.scan(down, nothing, (blocks.lower, inverse, right))[1]
    return jax.lax.scan(up, nothing, (inverse, blocks.upper, reduced), reverse=True)[1]


def _slope(system, inputs):
    @jax.jit  # so that it is traced once for all the places where it is called
    def slope(path):
        return jax.grad(system.energy, holomorphic=jnp.iscomplexobj(path))(path, inputs)

    return slope


def _held(system, path) -> Bool[Array, "point coordinate"] | None:
    """Coordinates pinned by equal bounds; None where there are none."""
    bounds = system.bounds()
    if bounds is None:
        return None
    lower, upper = bounds
    return jnp.broadcast_to(lower == upper, path.shape)


def _with_held(blocks, held):
    if held is None:
        return blocks
    rows, eye = held[:, :, None], jnp.eye(held.shape[1], dtype=blocks.diagonal.dtype)

    def clear(block, shift):
        return jnp.where(rows | jnp.roll(held, shift, axis=0)[:, None, :], 0, block)

    diagonal = jnp.where(rows | held[:, None, :], eye, blocks.diagonal)
    return Blocks(clear(blocks.lower, 1), diagonal, clear(blocks.upper, -1), blocks.closed)


def _softest(factors, held):
    """The smallest eigenvalue in size, by a few inverse iterations."""
    blocks = factors.blocks
    points, width, _ = blocks.diagonal.shape
    index = np.arange(points * width).reshape(points, width)
    vector = jnp.asarray(np.cos(1.7 * index**1.3 + 0.3), blocks.diagonal.dtype)
    vector = vector if held is None else jnp.where(held, 0, vector)

    def iterate(_, carried):
        vector, _ = carried
        solved = block_solve(factors, vector[..., None])[..., 0]
        norm = jnp.linalg.norm(solved)
        return solved / norm, 1 / norm

    vector = vector / jnp.linalg.norm(vector)
    return jax.lax.fori_loop(0, 8, iterate, (vector, jnp.ones((), vector.real.dtype)))[1]


def _stiffness(blocks):
    """The size of the second derivative on paths that move as a whole, or bend once: soft is soft against it."""
    whole = (blocks.lower + blocks.diagonal + blocks.upper)[1:-1]
    points = blocks.diagonal.shape[0]
    moving = jnp.sqrt(jnp.mean(jnp.sum(jnp.abs(whole) ** 2, axis=1))) if points > 2 else 0.0
    return jnp.maximum(moving, jnp.max(jnp.abs(blocks.diagonal)) / points**2)


def follow(
    systems: Iterable[System],
    inputs: PyTree,
    solver: Solver,
    *,
    start: PyTree | None = None,
    throw: bool = True,
) -> AbstractEquilibrium:
    """Continuation: settle each system from where the one before it came to rest; the last one is returned.

    Args:
        systems: Such as one `Path` at growing durations, or at growing anharmonicity.
        inputs: Inputs of the example.
        solver: What settles each of them.
        start: Where the first begins.
        throw: Whether to raise if the last does not settle; stages on the way must always.

    Raises:
        ValueError: if there are no systems.
        EquinoxRuntimeError: if one does not settle.
    """
    systems = list(systems)
    if not systems:
        raise ValueError("`systems` is empty; give at least the system that is wanted.")
    for system in systems[:-1]:
        start = settle(system, inputs, solver, start=start).state
    return settle(systems[-1], inputs, solver, start=start, throw=throw)
