r"""Spring networks and flow networks: the simplest physics that learns.

* Springs: $E(r) = \sum_e \tfrac12 k_e(\ell_e - \ell^0_e)^2$ in joules; nodes are pinned, driven (their displacement is
  the input) or free.
* Flow: $E(p) = \sum_e \tfrac12 k_e(p_i - p_j)^2$, half the dissipated power; pressures at driven nodes are the input.

Springs are not convex in the positions (they buckle), and a network that is not held has zero modes: Newton's method
then says that the second derivative is singular. Pin enough nodes: 2 in the plane, 3 in space.

Source:
    M. Stern et al., Supervised learning in physical networks: from machine learning to learning machines, 2021.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from eqprop.substrates.graph import colour
from eqprop.system import System

__all__ = ["FlowNetwork", "SpringNetwork"]

Edges = tuple[tuple[int, int], ...]


class SpringNetwork(System):
    """Point masses joined by springs. State: positions of free nodes [m]; inputs: displacements of driven nodes [m].

    Args:
        positions: Places of all nodes at rest. [m]
        springs: Pairs of nodes.
        stiffness: Of each spring. [N/m]
        rest_length: Of each spring; that between `positions` by default. [m]
        pinned: Nodes that do not move.
        driven: Nodes that the inputs displace.
        outputs: Free nodes whose displacement from `positions` is read.

    Raises:
        ValueError: if springs, pinned, driven or output nodes name no node, or a node is two of these at once.
    """

    stiffness: Float[Array, " spring"]
    rest_length: Float[Array, " spring"]
    positions: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    springs: Edges = eqx.field(static=True)
    pinned: tuple[int, ...] = eqx.field(static=True)
    driven: tuple[int, ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        positions: Float[np.ndarray, "node dim"],
        springs: Sequence[tuple[int, int]],
        stiffness: Float[Array, " spring"],
        rest_length: Float[Array, " spring"] | None = None,
        *,
        pinned: Sequence[int] = (),
        driven: Sequence[int] = (),
        outputs: Sequence[int],
    ):
        places = np.asarray(positions, float)
        self.positions = tuple(tuple(float(c) for c in row) for row in places)
        self.springs = _edges(springs, len(places), "springs")
        self.pinned, self.driven, self.outputs = _roles(len(places), pinned=pinned, driven=driven, outputs=outputs)
        self.stiffness = _per_edge(stiffness, self.springs, "stiffness")
        if rest_length is None:
            tails, heads = np.asarray(self.springs).T
            rest_length = jnp.asarray(np.linalg.norm(places[tails] - places[heads], axis=1), self.stiffness.dtype)
        self.rest_length = _per_edge(rest_length, self.springs, "rest_length")

    @property
    def free(self) -> tuple[int, ...]:
        """Nodes whose positions are the state, in order."""
        return tuple(sorted(set(range(len(self.positions))) - {*self.pinned, *self.driven}))

    def energy(self, state: Inexact[Array, "free dim"], inputs: Inexact[Array, "driven dim"]):
        """Elastic energy. [J]"""
        rest = jnp.asarray(self.positions, state.dtype)
        moved = rest.at[np.asarray(self.free, int)].set(state)
        if self.driven:
            driven = np.asarray(self.driven, int)
            moved = moved.at[driven].set(rest[driven] + inputs.astype(state.dtype))
        tails, heads = np.asarray(self.springs).T
        length = jnp.sqrt(jnp.sum((moved[tails] - moved[heads]) ** 2, axis=1))
        return 0.5 * jnp.sum(self.stiffness * (length - self.rest_length) ** 2)

    def initial_state(self, inputs):
        return jnp.asarray(
            np.asarray(self.positions)[np.asarray(self.free, int)], jnp.result_type(inputs, self.stiffness)
        )

    def output(self, state):
        places = np.searchsorted(self.free, self.outputs)
        rest = np.asarray(self.positions)[np.asarray(self.outputs, int)]
        return state[places] - jnp.asarray(rest, state.dtype)


class FlowNetwork(System):
    """Pipes between nodes. State: pressures of free nodes [Pa]; inputs: pressures of driven nodes [Pa].

    Args:
        nodes: How many.
        pipes: Pairs of nodes.
        conductance: Of each pipe. [m^3/(Pa s)]
        driven: Nodes whose pressure is given by the inputs.
        grounded: Nodes at pressure zero.
        outputs: Free nodes whose pressure is read.

    Raises:
        ValueError: as for `SpringNetwork`.
    """

    conductance: Float[Array, " pipe"]
    nodes: int = eqx.field(static=True)
    pipes: Edges = eqx.field(static=True)
    driven: tuple[int, ...] = eqx.field(static=True)
    grounded: tuple[int, ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        nodes: int,
        pipes: Sequence[tuple[int, int]],
        conductance: Float[Array, " pipe"],
        *,
        driven: Sequence[int],
        grounded: Sequence[int] = (),
        outputs: Sequence[int],
    ):
        self.nodes = nodes
        self.pipes = _edges(pipes, nodes, "pipes")
        self.grounded, self.driven, self.outputs = _roles(nodes, pinned=grounded, driven=driven, outputs=outputs)
        self.conductance = _per_edge(conductance, self.pipes, "conductance")

    @property
    def free(self) -> tuple[int, ...]:
        """Nodes whose pressures are the state, in order."""
        return tuple(sorted(set(range(self.nodes)) - {*self.grounded, *self.driven}))

    def energy(self, state: Inexact[Array, " free"], inputs: Inexact[Array, " driven"]):
        """Half the power dissipated in the pipes. [W]"""
        pressure = jnp.zeros(self.nodes, state.dtype)
        pressure = pressure.at[np.asarray(self.free, int)].set(state)
        pressure = pressure.at[np.asarray(self.driven, int)].set(inputs.astype(state.dtype))
        tails, heads = np.asarray(self.pipes).T
        return 0.5 * jnp.sum(self.conductance * (pressure[tails] - pressure[heads]) ** 2)

    def initial_state(self, inputs):
        return jnp.zeros(len(self.free), jnp.result_type(inputs, self.conductance))

    def output(self, state):
        return state[np.searchsorted(self.free, self.outputs)]

    def blocks(self):
        place = {node: i for i, node in enumerate(self.free)}
        inner = [(place[i], place[j]) for i, j in self.pipes if i in place and j in place]
        colours = np.asarray(colour(len(place), inner))
        return tuple(colours == k for k in range(colours.max() + 1))


def _edges(pairs, nodes, name) -> Edges:
    edges = tuple((int(i), int(j)) for i, j in pairs)
    wrong = [(i, j) for i, j in edges if i == j or not 0 <= i < nodes or not 0 <= j < nodes]
    if wrong or not edges:
        raise ValueError(f"`{name}` must join two different nodes among 0 to {nodes - 1}; got {wrong[:3] or 'none'}.")
    return edges


def _roles(nodes, *, pinned, driven, outputs):
    pinned, driven, outputs = (tuple(int(n) for n in role) for role in (pinned, driven, outputs))
    for name, role in (("pinned", pinned), ("driven", driven), ("outputs", outputs)):
        if len(set(role)) < len(role) or any(not 0 <= n < nodes for n in role):
            raise ValueError(f"`{name}` must name different nodes among 0 to {nodes - 1}; got {list(role)}.")
    twice = (set(pinned) & set(driven)) | (set(outputs) & {*pinned, *driven})
    if twice or not outputs:
        raise ValueError(
            f"A node is pinned, driven or free, and only free nodes are read; nodes {sorted(twice)} of {len(outputs)} "
            "outputs are two of these. Change `pinned`, `driven` or `outputs`."
        )
    return pinned, driven, outputs


def _per_edge(values, edges, name):
    values = jnp.asarray(values)
    if values.shape != (len(edges),) or not jnp.issubdtype(values.dtype, jnp.inexact):
        raise ValueError(f"`{name}` must hold one number for each of the {len(edges)} edges; got shape {values.shape}.")
    return values
