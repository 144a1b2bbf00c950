"""The elements of a netlist, in groups: what joins which nodes, and with which quantities.

Groups and not single branches, because a crossbar of a hundred thousand resistors is one thing. Every group of
branches has `tail` and `head` (nodes, in order) and `quantities()`.
"""

import abc
from collections.abc import Iterator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqprop.substrates.circuit.devices import Device, like
from eqprop.substrates.circuit.quantity import Quantity

__all__ = [
    "Amplifiers",
    "BranchGroup",
    "Branches",
    "Capacitors",
    "Crossbar",
    "CurrentSources",
    "Element",
    "InputSources",
    "Nodes",
    "VoltageSources",
]


class Nodes:
    """Nodes of one circuit, in order: what the builder returns and takes. Node 0 is ground.

    Slices are nodes, `+` joins, `len` counts; iteration gives single nodes.
    """

    __slots__ = ("_hash", "index")

    def __init__(self, index: int | Int[np.ndarray, "*node"]):
        """Nodes by number."""
        self.index = np.array(index, np.int32).reshape(-1)
        self.index.setflags(write=False)
        self._hash = hash(self.index.tobytes())

    def __len__(self):
        return len(self.index)

    def __getitem__(self, which: int | slice | np.ndarray) -> "Nodes":
        return Nodes(self.index[which])

    def __iter__(self) -> Iterator["Nodes"]:
        return (Nodes(i) for i in self.index)

    def __add__(self, other: "Nodes") -> "Nodes":
        return Nodes(np.concatenate([self.index, other.index]))

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return isinstance(other, Nodes) and np.array_equal(self.index, other.index)

    def __repr__(self):
        return f"Nodes({self.index.tolist()})" if len(self) < 8 else f"Nodes({len(self)} of them)"


class Element(eqx.Module):
    """A group of like elements between nodes."""

    @abc.abstractmethod
    def quantities(self) -> dict[str, Quantity]:
        """Its quantities by name; the trainable ones hold the parameters."""


class BranchGroup(Element):
    """A group of branches, each with a current that depends on its own voltage, tail minus head."""

    tail: eqx.AbstractVar[Nodes]
    """Where each branch begins."""
    head: eqx.AbstractVar[Nodes]
    """Where each branch ends."""

    @property
    @abc.abstractmethod
    def linear(self) -> bool:
        """Whether the currents are affine in the voltages."""

    @abc.abstractmethod
    def current(self, voltage: Float[Array, " branch"]) -> Float[Array, " branch"]:
        """Branch currents. [A]"""

    @abc.abstractmethod
    def slope(self, voltage: Float[Array, " branch"]) -> Float[Array, " branch"]:
        """Differential conductances. [S]"""

    @abc.abstractmethod
    def cocontent(self, nodes: Float[Array, " node"], weight: float | Float[np.ndarray, " branch"]) -> Float[Array, ""]:
        """Weighted sum of the branches' co-content at given node voltages [V]. [W]"""

    def __len__(self):
        return len(self.tail)


class Branches(BranchGroup):
    """Two-terminal devices: resistors, Norton sources, diodes."""

    tail: Nodes = eqx.field(static=True)
    head: Nodes = eqx.field(static=True)
    device: Device

    @property
    def linear(self):
        return self.device.linear

    def current(self, voltage):
        return self.device.current(voltage)

    def slope(self, voltage):
        return jnp.broadcast_to(self.device.slope(voltage), voltage.shape)

    def cocontent(self, nodes, weight):
        voltage = nodes[self.tail.index] - nodes[self.head.index]
        return jnp.sum(jnp.asarray(weight, nodes.dtype) * self.device.cocontent(voltage))

    def quantities(self):
        return self.device.quantities()


class Crossbar(BranchGroup):
    r"""A resistor between every row and every column.

    Its co-content $\tfrac12\sum_{ij} g_{ij}(r_i - c_j)^2$ is expanded into matrix products, so that a batch never
    makes an array of (example, row, column).
    """

    rows: Nodes = eqx.field(static=True)
    columns: Nodes = eqx.field(static=True)
    conductance: Quantity
    """Of row i, column j; shape [row, column]. [S]"""

    @property
    def tail(self):
        return Nodes(np.repeat(self.rows.index, len(self.columns)))

    @property
    def head(self):
        return Nodes(np.tile(self.columns.index, len(self.rows)))

    @property
    def linear(self):
        return True

    def __len__(self):
        return len(self.rows) * len(self.columns)

    def current(self, voltage):
        return jnp.ravel(like(self.conductance, voltage)) * voltage

    def slope(self, voltage):
        return jnp.broadcast_to(jnp.ravel(like(self.conductance, voltage)), voltage.shape)

    def cocontent(self, nodes, weight):
        conductance = like(self.conductance, nodes) * jnp.reshape(
            jnp.asarray(weight, nodes.dtype), self._weights(weight)
        )
        rows, columns = nodes[self.rows.index], nodes[self.columns.index]
        own = 0.5 * (jnp.dot(rows**2, conductance.sum(1)) + jnp.dot(conductance.sum(0), columns**2))
        return own - jnp.dot(jnp.dot(rows, conductance), columns)

    def _weights(self, weight):
        return () if np.ndim(weight) == 0 else (len(self.rows), len(self.columns))

    def quantities(self):
        return {"conductance": self.conductance}


class CurrentSources(Element):
    """Ideal current sources: `current` flows from `out_of` through the source into `into`."""

    into: Nodes = eqx.field(static=True)
    out_of: Nodes = eqx.field(static=True)
    current: Quantity
    """[A]"""

    def quantities(self):
        return {"current": self.current}


class VoltageSources(Element):
    """Ideal voltage sources: plus is `voltage` above minus, which is ground or any node."""

    plus: Nodes = eqx.field(static=True)
    minus: Nodes = eqx.field(static=True)
    voltage: Quantity
    """[V]"""

    def quantities(self):
        return {"voltage": self.voltage}


class InputSources(Element):
    """Grounded voltage sources that the inputs of an example set: node k is held at gain[k]·inputs[number[k]]."""

    plus: Nodes = eqx.field(static=True)
    number: tuple[int, ...] = eqx.field(static=True)
    gain: tuple[float, ...] = eqx.field(static=True)

    def quantities(self):
        return {}


class Amplifiers(Element):
    r"""Bidirectional amplifiers: $v_y = A v_x$ forward, $i_x = c\,i_y$ backward.

    A voltage-controlled voltage source and a current-controlled current source. With $c > 0$ the network keeps a
    co-content, in which what lies behind the amplifier counts $c/A$ times what lies before it.
    """

    input: Nodes = eqx.field(static=True)
    output: Nodes = eqx.field(static=True)
    gain: tuple[float, ...] = eqx.field(static=True)
    current_gain: tuple[float, ...] = eqx.field(static=True)

    def quantities(self):
        return {}


class Capacitors(Element):
    """Capacitors: open at the operating point, they set how fast it is reached."""

    tail: Nodes = eqx.field(static=True)
    head: Nodes = eqx.field(static=True)
    capacitance: Quantity
    """[F]"""

    def quantities(self):
        return {"capacitance": self.capacitance}
