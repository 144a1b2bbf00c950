r"""Redrawing the spins of one colour, in one chain or in many chains at once.

Where there are many chains they lie along the last axis: a spin's neighbour is then fetched as the row of all its
chains, which is several times as fast as number by number. `jax.vmap` over chains arrives here by itself.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

__all__ = ["Colours", "draw_spins", "redraw"]

_WRITTEN_OUT = 8  # colours up to this number have tables of their own sizes
_LARGE = 500  # entries from which a table is summed neighbour by neighbour: faster, but slower to compile


class Colours:
    """Of each colour of a graph: its spins, their neighbours, and the edges to them.

    Lists of neighbours are padded with an edge that does not exist, one beyond the last. Where there are many colours,
    all tables are padded to one size, with spins that do not exist: which colour it is may then be known on the device
    only.
    """

    def __init__(self, colours: Sequence[int], edges: Sequence[tuple[int, int] | None]):
        """Tables of a colouring; `edges` holds pairs of spins, and None for edges between a spin and an input."""
        spins = len(colours)
        touching: list[list[tuple[int, int]]] = [[] for _ in range(spins)]
        for edge, pair in enumerate(edges):
            if pair is not None:
                touching[pair[0]].append((pair[1], edge))
                touching[pair[1]].append((pair[0], edge))
        members = [np.flatnonzero(np.asarray(colours) == c) for c in range(max(colours) + 1)]
        self.alike = len(members) > _WRITTEN_OUT
        width = [max(1, *(len(touching[s]) for s in m)) for m in members]
        if self.alike:
            size = max(len(m) for m in members)
            members = [np.pad(m, (0, size - len(m)), constant_values=spins) for m in members]
            width = [max(width)] * len(members)
        nothing = (0, len(edges))
        tables = []
        for those, size in zip(members, width, strict=True):
            rows = [touching[s] if s < spins else [] for s in those]
            tables.append(np.asarray([row + [nothing] * (size - len(row)) for row in rows], int))
        self.members = members
        self.neighbours = [table[..., 0] for table in tables]
        self.links = [table[..., 1] for table in tables]


def draw_spins(
    uniform: Float[Array, "..."], field: Float[Array, "..."], temperature: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Spins in a field at a temperature from uniform numbers; monotone in the field, so that shared noise cancels."""
    return jnp.where(uniform < jax.nn.sigmoid(2 * field / temperature), 1.0, -1.0).astype(field.dtype)


def redraw(
    members: Int[np.ndarray, " member"],
    neighbours: Int[np.ndarray, "member neighbour"],
    links: Int[np.ndarray, "member neighbour"],
) -> Callable[..., Float[Array, " spin"]]:
    """A function of `(noise, temperature, state, field, coupling)` that redraws the spins `members`.

    Args:
        members: Spins that do not interact.
        neighbours: Their neighbours.
        links: Which entry of `coupling` leads to each.
    """

    def many(noise, temperature, state, field, coupling):
        """The same with chains along a last axis, of length 1 where all chains share a value."""
        felt = field[members]
        if links.size < _LARGE:
            felt = felt + jnp.sum(coupling[links] * state[neighbours], axis=1)
        else:
            for k in range(links.shape[1]):
                felt = felt + coupling[links[:, k]] * state[neighbours[:, k]]
        drawn = draw_spins(noise[members], felt, temperature[None])
        state = jnp.broadcast_to(state, (state.shape[0], drawn.shape[-1]))
        return state.at[members].set(drawn, unique_indices=True)

    @custom_vmap
    def one(*arguments):
        return many(*(leaf[..., None] for leaf in arguments))[..., 0]

    @one.def_vmap
    def _(_size, batched, *arguments):
        last = (
            jnp.moveaxis(leaf, 0, -1) if along else leaf[..., None]
            for leaf, along in zip(arguments, batched, strict=True)
        )
        return jnp.moveaxis(many(*last), -1, 0), True

    return one
