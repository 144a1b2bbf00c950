"""The netlist builder: nodes, sources, resistors, diodes, amplifiers; `compile` makes it a system."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array

from eqprop.substrates.circuit.devices import Device, IdealDiode, NortonSource, Resistor
from eqprop.substrates.circuit.elements import (
    Amplifiers,
    Branches,
    Capacitors,
    Crossbar,
    CurrentSources,
    Element,
    InputSources,
    Nodes,
    VoltageSources,
)
from eqprop.substrates.circuit.quantity import Quantity, as_quantity
from eqprop.substrates.circuit.units import number

if TYPE_CHECKING:
    from eqprop.substrates.circuit.network import Network

__all__ = ["Circuit"]

Value = float | int | str | np.ndarray | np.generic | Array | Quantity | Sequence[float]
"""What a builder takes for a quantity: a number, engineering notation, an array, or a `Quantity`."""


class Circuit:
    """A netlist under construction.

    Methods add elements and return the nodes they make. Everything has a name; parameters of the compiled network are
    found by it: `network.elements["W1"].conductance.value`.

    Example:
        >>> circuit = Circuit()
        >>> x = circuit.inputs("x", 2)
        >>> y = circuit.nodes("y", 1)
        >>> circuit.crossbar("W", x, y, conductance="1m", trainable=True)
        >>> circuit.resistors("load", y, circuit.ground, resistance="1k")
        >>> circuit.outputs(y)
        >>> network = circuit.compile()
    """

    def __init__(self):
        self.ground = Nodes(np.zeros(1, int))
        """The reference node, 0 V."""
        self.names: list[str] = ["0"]
        """Of the nodes, in the order of their numbers."""
        self.elements: dict[str, Element] = {}
        self.groups: dict[str, Nodes] = {}
        """The nodes made under each name."""
        self.input_size = 0
        """Numbers in the inputs of one example."""
        self.output_plus: Nodes | None = None
        self.output_minus: Nodes | None = None
        self.output_gain = 1.0

    # Nodes

    def node(self, name: str) -> Nodes:
        """One free node."""
        return self._new(name, [name])

    def nodes(self, name: str, count: int) -> Nodes:
        """`count` free nodes, called name0, name1, ..."""
        return self._new(name, [f"{name}{i}" for i in range(_count(name, count))])

    def _new(self, name, names):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f'"{name}" is no name: letters, digits and _ only, not a digit first.')
        taken = sorted({name} & (set(self.groups) | set(self.elements)) | (set(names) & set(self.names)))
        if taken:
            raise ValueError(f'The name "{taken[0]}" is taken; nodes and elements need names of their own.')
        made = Nodes(np.arange(len(self.names), len(self.names) + len(names)))
        self.names += names
        self.groups[name] = made
        return made

    # Sources

    def inputs(self, name: str, count: int, *, gain: float | int | str = 1.0, mirrored: bool = False) -> Nodes:
        """Nodes held by grounded voltage sources that the inputs of each example set.

        Args:
            name: Of the nodes.
            count: Numbers taken from the inputs; further calls take the numbers that follow.
            gain: Volts per unit of input. [V]
            mirrored: Whether each input also holds a node at minus its voltage; those nodes come after the others.
                Conductances cannot be negative, but a conductance to the mirrored node acts as one.
        """
        numbers = [*range(self.input_size, self.input_size + _count(name, count))] * (2 if mirrored else 1)
        gains = [float(number(gain))] * count + [-float(number(gain))] * (len(numbers) - count)
        suffixes = [f"p{i}" for i in range(count)] + [f"n{i}" for i in range(count)] if mirrored else range(count)
        made = self._new(name, [f"{name}{suffix}" for suffix in suffixes])
        self.elements[name] = InputSources(made, tuple(numbers), tuple(gains))
        self.input_size += count
        return made

    def source(self, name: str, voltage: Value, *, trainable: bool = False) -> Nodes:
        """Nodes held by grounded voltage sources, one for each voltage. [V]"""
        count = (
            int(np.size(voltage))
            if not isinstance(voltage, Quantity | str)
            else int(np.prod(np.shape(getattr(voltage, "value", 0.0))))
        )
        made = self._new(name, [name] if count == 1 else [f"{name}{i}" for i in range(count)])
        value = np.ravel(voltage) if isinstance(voltage, list | tuple) else voltage
        quantity = as_quantity(f"Voltage of `{name}`", value, (count,), trainable=trainable)
        self.elements[name] = VoltageSources(made, _like(self.ground, made), quantity)
        return made

    def floating_source(self, name: str, plus: Nodes, minus: Nodes, voltage: Value, *, trainable: bool = False) -> None:
        """Ideal voltage sources between nodes: plus is `voltage` above minus. [V]"""
        plus, minus = self._pairs(name, plus, minus)
        quantity = as_quantity(f"Voltage of `{name}`", _array(voltage), (len(plus),), trainable=trainable)
        self._add(name, VoltageSources(plus, minus, quantity))

    def current_source(
        self, name: str, into: Nodes, current: Value, *, out_of: Nodes | None = None, trainable: bool = False
    ) -> None:
        """Ideal current sources into nodes, out of ground unless said otherwise. [A]"""
        into, out_of = self._pairs(name, into, self.ground if out_of is None else out_of)
        quantity = as_quantity(f"Current of `{name}`", _array(current), (len(into),), trainable=trainable)
        self._add(name, CurrentSources(into, out_of, quantity))

    def norton(
        self,
        name: str,
        node: Nodes,
        voltage: Value,
        *,
        conductance: Value,
        trainable: bool = False,
        bounds: tuple[float | int | str, float | int | str] = (0.0, np.inf),
    ) -> None:
        """Voltage sources [V] behind conductances [S], from ground to nodes. Both are trained if `trainable`."""
        tail, head = self._pairs(name, node, self.ground)
        shape = (len(tail),)
        self._add(
            name,
            Branches(
                tail,
                head,
                NortonSource(
                    as_quantity(
                        f"Conductance of `{name}`", _array(conductance), shape, trainable=trainable, bounds=bounds
                    ),
                    as_quantity(f"Voltage of `{name}`", _array(voltage), shape, trainable=trainable),
                ),
            ),
        )

    # Branches

    def resistors(
        self,
        name: str,
        tail: Nodes,
        head: Nodes,
        *,
        resistance: Value | None = None,
        conductance: Value | None = None,
        trainable: bool = False,
        bounds: tuple[float | int | str, float | int | str] = (0.0, np.inf),
    ) -> None:
        """Resistors between nodes, pair by pair; one node on a side is joined to all on the other.

        Args:
            name: Of the group.
            tail: Where they begin.
            head: Where they end.
            resistance: Either this [Ω]
            conductance: or this. [S]
            trainable: Whether the conductance is trained.
            bounds: Within which a trained conductance is kept. [S]

        Raises:
            ValueError: for resistances of zero, values that are not finite, pairs that do not match.
        """
        tail, head = self._pairs(name, tail, head)
        quantity = _conductance(name, resistance, conductance, (len(tail),), trainable, bounds)
        self._add(name, Branches(tail, head, Resistor(quantity)))

    def crossbar(
        self,
        name: str,
        rows: Nodes,
        columns: Nodes,
        *,
        conductance: Value | None = None,
        resistance: Value | None = None,
        trainable: bool = False,
        bounds: tuple[float | int | str, float | int | str] = (0.0, np.inf),
    ) -> None:
        """A resistor between every row and every column; conductances [S] of shape (rows, columns)."""
        both = np.intersect1d(rows.index, columns.index)
        if len(both):
            raise ValueError(
                f"Crossbar `{name}` joins node `{self.names[both[0]]}` to itself; rows and columns must differ."
            )
        shape = (len(rows), len(columns))
        quantity = _conductance(name, resistance, conductance, shape, trainable, bounds)
        # The checker takes the abstract `tail` and `head` for fields; they are properties of a crossbar.
        self._add(name, Crossbar(rows, columns, quantity))  # pyright: ignore[reportCallIssue]

    def diodes(self, name: str, anode: Nodes, cathode: Nodes, device: Device | None = None) -> None:
        """Diodes, pair by pair: ideal by default, or any device of `devices` (antiparallel pairs, say)."""
        tail, head = self._pairs(name, anode, cathode)
        self._add(name, Branches(tail, head, IdealDiode() if device is None else device))

    def split(self, name: str, nodes: Nodes, device: Device | None = None, *, reference: Nodes | None = None) -> None:
        """Diodes that keep the first half of `nodes` above `reference` (ground) and the second half below it.

        So half of a hidden layer is excitatory and half inhibitory, which conductances that cannot be negative need.
        """
        reference = self.ground if reference is None else reference
        half = (len(nodes) + 1) // 2
        reference = reference if len(reference) == len(nodes) else _like(reference, nodes)
        anode = reference[:half] + nodes[half:]
        cathode = nodes[:half] + reference[half:]
        self.diodes(name, anode, cathode, device)

    def amplifiers(
        self, name: str, nodes: Nodes, *, gain: float | int, current_gain: float | int | None = None
    ) -> Nodes:
        """Bidirectional amplifiers behind nodes; returns their output nodes.

        Args:
            name: Of the group and its output nodes.
            nodes: Inputs.
            gain: Voltage gain A forward.
            current_gain: Current gain c backward; 1/A by default.
        """
        made = self._new(name, [f"{name}{i}" for i in range(len(nodes))])
        self.elements[name] = _amplifiers(name, nodes, made, gain, current_gain)
        return made

    def join(
        self, name: str, input: Nodes, output: Nodes, *, gain: float | int, current_gain: float | int | None = None
    ) -> None:
        """Bidirectional amplifiers between nodes that exist: see `amplifiers`."""
        input, output = self._pairs(name, input, output)
        self._add(name, _amplifiers(name, input, output, gain, current_gain))

    def capacitors(self, name: str, tail: Nodes, head: Nodes, capacitance: Value, *, trainable: bool = False) -> None:
        """Capacitors between nodes, pair by pair. [F]"""
        tail, head = self._pairs(name, tail, head)
        quantity = as_quantity(f"Capacitance of `{name}`", _array(capacitance), (len(tail),), trainable=trainable)
        self._add(name, Capacitors(tail, head, quantity))

    def outputs(self, plus: Nodes, minus: Nodes | None = None, *, gain: float | int = 1.0) -> None:
        """What is read and nudged: `gain` times the voltages of `plus`, or their differences to `minus`.

        The gain is that of a digital readout: with cross-entropy, the factor before the softmax.
        """
        if minus is not None and len(minus) != len(plus):
            raise ValueError(
                f"Differential outputs need as many `minus` nodes as `plus` nodes; got {len(minus)} and {len(plus)}."
            )
        self.output_plus, self.output_minus, self.output_gain = plus, minus, float(gain)

    def compile(self, *, minimal_conductance: float | int | str = 0.0, allow_nonconvex: bool = False) -> "Network":
        """Check the circuit and make it a system.

        Args:
            minimal_conductance: From every free node to ground, for nodes that only diodes hold; 0 for none. [S]
            allow_nonconvex: Whether conductances may be negative; then the operating point need not be unique.

        Raises:
            CircuitError: one of its kinds, naming the node or branch at fault.
            ValueError: for a circuit without nodes or outputs.
        """
        from eqprop.substrates.circuit.network import Network

        return Network(self, minimal_conductance=minimal_conductance, allow_nonconvex=allow_nonconvex)

    def _add(self, name, element):
        if name in self.elements or name in self.groups:
            raise ValueError(f'The name "{name}" is taken; nodes and elements need names of their own.')
        self.elements[name] = element

    def _pairs(self, name, tail, head):
        """Two sides of equal length; one node stands for as many as the other side has."""
        if len(tail) != len(head) and 1 not in (len(tail), len(head)):
            raise ValueError(
                f"`{name}` joins {len(tail)} nodes to {len(head)}; give as many on both sides, or one on a side."
            )
        tail, head = (side if len(side) > 1 else _like(side, other) for side, other in ((tail, head), (head, tail)))
        same = np.flatnonzero(tail.index == head.index)
        if len(same):
            raise ValueError(f"`{name}` joins node `{self.names[tail.index[same[0]]]}` to itself; remove that branch.")
        return tail, head


def _amplifiers(name, input, output, gain, current_gain):
    back = (1 / gain if gain != 0 else 0.0) if current_gain is None else current_gain
    if gain == 0 or not np.isfinite([gain, back]).all():
        raise ValueError(
            f"`gain` of amplifier `{name}` must be finite and not zero, `current_gain` finite; got {gain} and {back}."
        )
    return Amplifiers(input, output, (float(gain),) * len(input), (float(back),) * len(input))


def _count(name, count):
    if count < 1:
        raise ValueError(f"`{name}` must have at least one node; got {count}.")
    return count


def _like(one, others):
    """One node, as often as there are others."""
    return Nodes(np.repeat(one.index, len(others))) if len(one) == 1 else one


def _array(value):
    return np.asarray(value, float) if isinstance(value, list | tuple) else value


def _conductance(name, resistance, conductance, shape, trainable, bounds):
    if (resistance is None) == (conductance is None):
        raise ValueError(f"Give `{name}` either `resistance` or `conductance`.")
    if resistance is not None:
        if isinstance(resistance, Quantity):
            raise ValueError(f"A trainable quantity of `{name}` is its conductance; give `conductance=`.")
        ohms = np.asarray(number(_array(resistance)), float)
        if (ohms == 0).any():
            raise ValueError(f"Resistance of `{name}` is zero; use one node for both ends instead.")
        if np.isinf(ohms).any():
            raise ValueError(f"Resistance of `{name}` is infinite; leave the branch out, or give `conductance=0.0`.")
        conductance = 1 / ohms
    elif not isinstance(conductance, Quantity) and np.isinf(np.asarray(number(_array(conductance)), float)).any():
        raise ValueError(f"Conductance of `{name}` is infinite; use one node for both ends instead.")
    limits = tuple(float(number(b)) for b in bounds)
    return as_quantity(f"Conductance of `{name}`", _array(conductance), shape, trainable=trainable, bounds=limits)
