r"""Ising models, which are general Boltzmann machines: spins $\pm 1$ with pair couplings on any graph.

$$E(s) = -\sum_{(i,j)} J_{ij} s_i s_j - \sum_i h_i s_i, \qquad
P(s_i = 1 \mid \text{rest}) = \frac{1}{1 + e^{-2 f_i/T}}, \quad f_i = h_i + \sum_j J_{ij} s_j$$

Spins of one colour of the graph do not interact and are redrawn together. Input nodes are clamped to any real numbers.

Source:
    D. H. Ackley, G. E. Hinton and T. J. Sejnowski, A learning algorithm for Boltzmann machines, 1985. J. Laydevant et
    al., Training an Ising machine with equilibrium propagation, 2024.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from eqprop.substrates.graph import colour
from eqprop.substrates.spins.field import nudge_field
from eqprop.substrates.spins.redraw import Colours, draw_spins, redraw
from eqprop.system import Conditionals, System

__all__ = ["Ising", "all_spins", "ising_from_couplings"]

_MOST = 20  # spins that may be enumerated: a million configurations


class Ising(System):
    """An Ising model on a graph; nodes 0 to inputs - 1 are clamped to the inputs, the rest are spins.

    Args:
        inputs: Number of input nodes.
        spins: Number of spins.
        edges: Pairs of nodes, each pair once; spins count on from the inputs.
        outputs: Nodes that are read; spins all. Every spin by default.
        key: Random key for the couplings, normal with deviation gain/sqrt(mean degree).
        gain: Scale of the couplings.

    Raises:
        ValueError: for edges that repeat, join a node to itself or two inputs, and outputs that are no spins.
    """

    coupling: Float[Array, " edge"]
    field: Float[Array, " spin"]
    inputs: int = eqx.field(static=True)
    edges: tuple[tuple[int, int], ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)
    colours: tuple[int, ...] = eqx.field(static=True)

    holomorphic: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def __init__(
        self,
        inputs: int,
        spins: int,
        edges: Sequence[tuple[int, int]] | Int[np.ndarray, "edge 2"],
        outputs: Sequence[int] | None = None,
        *,
        key: PRNGKeyArray,
        gain: float = 0.5,
    ):
        nodes = inputs + spins
        pairs = [(int(min(pair)), int(max(pair))) for pair in edges]
        wrong = [p for p in pairs if p[0] == p[1] or p[0] < 0 or p[1] >= nodes or p[1] < inputs]
        if wrong or len(set(pairs)) < len(pairs):
            shown = (wrong or [p for p in set(pairs) if pairs.count(p) > 1])[:3]
            raise ValueError(
                f"`edges` must join two different nodes among 0 to {nodes - 1}, at least one of them a spin, each pair "
                f"once; got {shown}."
            )
        outputs = range(inputs, nodes) if outputs is None else outputs
        if len(outputs) == 0 or any(not inputs <= node < nodes for node in outputs):
            raise ValueError(f"`outputs` must name spins, nodes {inputs} to {nodes - 1}; got {list(outputs)}.")
        degree = max(1.0, 2 * len(pairs) / nodes)
        self.coupling = jax.random.normal(key, (len(pairs),)) * (gain / math.sqrt(degree))
        self.field = jnp.zeros(spins)
        self.inputs = inputs
        self.edges = tuple(pairs)
        self.outputs = tuple(int(node) for node in outputs)
        self.colours = colour(spins, [(i - inputs, j - inputs) for i, j in pairs if i >= inputs])

    def energy(self, state, inputs):
        nodes = jnp.concatenate([self._clamped(inputs).astype(state.dtype), state])
        tails, heads = np.asarray(self.edges, int).reshape(-1, 2).T
        pairs = jnp.sum(self.coupling.astype(state.dtype) * nodes[tails] * nodes[heads])
        return -pairs - jnp.sum(self.field.astype(state.dtype) * state)

    def initial_state(self, inputs):
        return jnp.zeros(self.field.shape, jnp.result_type(self._clamped(inputs).dtype, self.field.dtype))

    def output(self, state):
        return state[np.asarray(self.outputs) - self.inputs]

    def blocks(self):
        colours = np.asarray(self.colours)
        return tuple(colours == c for c in range(max(self.colours) + 1))

    def configurations(self):
        return jnp.asarray(all_spins(self.field.shape[0]), self.field.dtype)

    def conditionals(self, inputs, nudge):
        dtype = self.initial_state(inputs).dtype
        coupling = jnp.concatenate([self.coupling.astype(dtype), jnp.zeros(1, dtype)])
        field = self._drive(inputs, dtype)
        if nudge is not None:
            places = np.asarray(self.outputs) - self.inputs
            zeros = jnp.zeros(self.field.shape, dtype)
            extra = nudge_field(lambda o: nudge(zeros.at[places].set(o)), len(self.outputs), dtype)
            field = field.at[places].add(extra)
        inner = [(i - self.inputs, j - self.inputs) if i >= self.inputs else None for i, j in self.edges]
        tables = Colours(self.colours, inner)
        if tables.alike:
            return self._by_table(field, coupling[np.stack(tables.links)], tables)
        redraws = [redraw(*parts) for parts in zip(tables.members, tables.neighbours, tables.links, strict=True)]

        def draw(block, noise, temperature, state):
            return redraws[block](noise, temperature, state, field, coupling)

        return Conditionals(len(redraws), partial(_uniform, self.field.shape[0], dtype), draw)

    def _by_table(self, field, weights, tables):
        """As `conditionals`, for blocks of equal size: the block may be known on the device only."""
        members, neighbours = jnp.asarray(np.stack(tables.members)), jnp.asarray(np.stack(tables.neighbours))

        def draw(block, noise, temperature, state):
            here = members[block]
            felt = field[here] + jnp.sum(weights[block] * state[neighbours[block]], axis=-1)
            return state.at[here].set(draw_spins(noise[here], felt, temperature), mode="drop")

        return Conditionals(len(tables.members), partial(_uniform, self.field.shape[0], field.dtype), draw)

    def _drive(self, inputs, dtype):
        """The field on each spin from its own field and the inputs."""
        field = self.field.astype(dtype)
        clamped = [k for k, (i, _) in enumerate(self.edges) if i < self.inputs]
        if not clamped:
            return field
        tails, heads = np.asarray([self.edges[k] for k in clamped]).T
        push = self.coupling[np.asarray(clamped)].astype(dtype) * self._clamped(inputs).astype(dtype)[tails]
        return field.at[heads - self.inputs].add(push)

    def _clamped(self, inputs):
        flat = jnp.ravel(inputs)
        if flat.shape[0] != self.inputs:
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} hold {flat.shape[0]} numbers; this model has {self.inputs} "
                "inputs."
            )
        return flat if jnp.issubdtype(flat.dtype, jnp.inexact) else flat.astype(self.field.dtype)


def ising_from_couplings(
    couplings: Float[np.ndarray, "row column"],
    field: Float[np.ndarray, " spin"],
    *,
    outputs: Sequence[int] | None = None,
) -> Ising:
    """An Ising model without inputs from a matrix of couplings, each pair counted once; zeros are no edges.

    Raises:
        ValueError: if the couplings are not square and symmetric, or have a diagonal.
    """
    matrix = np.asarray(couplings)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or np.shape(field) != matrix.shape[:1]:
        raise ValueError(
            f"`couplings` must be square with one `field` per spin; got shapes {matrix.shape} and {np.shape(field)}."
        )
    gap = np.abs(matrix - matrix.T)
    if gap.max() > 1e-6 * np.abs(matrix).max():
        i, j = np.unravel_index(int(gap.argmax()), gap.shape)
        raise ValueError(
            f"`couplings` must be symmetric: spins with one-way couplings have no energy. couplings[{i}, {j}] = "
            f"{matrix[i, j]:g} but couplings[{j}, {i}] = {matrix[j, i]:g}. Use (J + J.T) / 2, or treat the model as a "
            "vector field."
        )
    if np.abs(np.diag(matrix)).max() > 0:
        raise ValueError("`couplings` must have a zero diagonal: a spin's square is 1, so self-coupling is a constant.")
    edges = np.argwhere(np.triu(matrix, 1) != 0)
    model = Ising(0, matrix.shape[0], edges, outputs, key=jax.random.key(0))
    values = jnp.asarray(matrix[tuple(edges.T)]), jnp.asarray(field)
    return eqx.tree_at(lambda m: (m.coupling, m.field), model, values)


def _uniform(count, dtype, key):
    return jax.random.uniform(key, (count,), dtype)


def all_spins(count: int) -> Float[np.ndarray, "configuration spin"]:
    """All configurations of `count` spins.

    Raises:
        ValueError: for more than 20 spins.
    """
    if count > _MOST:
        raise ValueError(
            f"{count} spins have 2**{count} configurations, too many to list (at most 2**{_MOST}); use `Gibbs`."
        )
    return 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1) - 1
