r"""What can be known of a circuit before it is solved: which nodes are free, and what each element weighs.

Ideal voltage sources and amplifiers tie nodes rigidly: every node is
$v_n = \alpha_n s_{r(n)} + \sum_k \kappa_{nk} E_k$, with one free unit $r(n)$ or none, and sources $E$ (the inputs
first, then constant ones). Whether these units are held, and what they weigh, `connections` says.
"""

from collections import deque
from typing import NamedTuple

import numpy as np

from eqprop.substrates.circuit.connections import check_grounded, weights
from eqprop.substrates.circuit.devices import IdealDiode
from eqprop.substrates.circuit.elements import Amplifiers, Branches, BranchGroup, InputSources, VoltageSources
from eqprop.substrates.circuit.errors import (
    CircuitError,
    InconsistentAmplifierWeights,
    NonPassiveError,
    NotReciprocalError,
    VoltageLoopError,
)
from eqprop.substrates.circuit.quantity import Constant

__all__ = ["Topology", "analyse"]


class Topology(NamedTuple):
    """The structure of a compiled circuit; hashable."""

    names: tuple[str, ...]
    """Of the nodes."""
    unit: Constant
    """Which unit of the state each node follows; -1 for nodes that sources hold. [node]"""
    gain: Constant
    """Volts of the node per volt of its unit. [node]"""
    offset_node: Constant
    """Offsets as triplets: this node [offset]"""
    offset_source: Constant
    """is raised by this source [offset]"""
    offset_gain: Constant
    """times this. [offset]"""
    units: tuple[int, ...]
    """The node that each unit of the state is the voltage of. [unit]"""
    weight: Constant
    """What the co-content of branches at each node counts; 1 at the outputs. [node]"""
    input_size: int
    output_plus: Constant
    output_minus: Constant | None
    output_gain: float

    def name(self, unit: int) -> str:
        """The node that a unit of the state is."""
        return self.names[self.units[unit]]


class _Tie(NamedTuple):
    """v_b = gain v_a + source."""

    a: int
    b: int
    gain: float
    source: int
    source_gain: float
    label: str
    ratio: float | None


def analyse(circuit, *, allow_nonconvex: bool) -> tuple[Topology, set[int]]:
    """The topology, and the nodes that only diodes or open conductances hold.

    Raises:
        CircuitError: one of its kinds.
        ValueError: for a circuit without free nodes or outputs.
    """
    if circuit.output_plus is None or len(circuit.output_plus) == 0:
        raise ValueError("The circuit has no outputs; name them: `circuit.outputs(nodes)`.")
    _check_values(circuit, allow_nonconvex)
    ties = _ties(circuit)
    roots, gain, offsets = _resolve(circuit, ties)
    free = sorted({int(r) for r in roots if r != 0})
    if not free:
        raise ValueError("The circuit has no free node; nothing is to be solved for.")
    weak = check_grounded(circuit, roots, gain)
    weight = weights(circuit, ties, roots)
    unit_of = {root: k for k, root in enumerate(free)}
    triplets = [(n, k, g) for n in range(len(roots)) for k, g in offsets[n].items() if g != 0]
    nodes, sources, gains = np.array(triplets, float).reshape(-1, 3).T
    minus = circuit.output_minus
    topology = Topology(
        names=tuple(circuit.names),
        unit=Constant(np.array([unit_of.get(int(r), -1) for r in roots], np.int32)),
        gain=Constant(gain),
        offset_node=Constant(nodes.astype(np.int32)),
        offset_source=Constant(sources.astype(np.int32)),
        offset_gain=Constant(gains),
        units=tuple(free),
        weight=Constant(weight),
        input_size=circuit.input_size,
        output_plus=Constant(circuit.output_plus.index),
        output_minus=None if minus is None else Constant(minus.index),
        output_gain=circuit.output_gain,
    )
    _check_outputs(topology, weight)
    return topology, weak


def _check_values(circuit, allow_nonconvex):
    for name, element in circuit.elements.items():
        if isinstance(element, Amplifiers):
            for i, (a, c) in enumerate(zip(element.gain, element.current_gain, strict=True)):
                if not c / a > 0:
                    raise NotReciprocalError(
                        f"Amplifier {i} of `{name}` has gain {a:g} and current gain {c:g}: without a backward "
                        f"current of "
                        "the same sign nothing that happens behind it is felt before it, and nudges give no gradient. "
                        "Give `current_gain`, such as 1/gain."
                    )
        conductance = element.quantities().get("conductance")
        if isinstance(element, BranchGroup) and conductance is not None and not allow_nonconvex:
            values = np.ravel(np.asarray(conductance.value))
            if (values < 0).any():
                k = int(np.flatnonzero(values < 0)[0])
                raise NonPassiveError(
                    f"Branch {k} of `{name}` ({_ends(circuit, element, k)}) has conductance {values[k]:g} S. Make it "
                    "positive, or compile with `allow_nonconvex=True` and check the operating point yourself."
                )


def _ends(circuit, element, k):
    return f"{circuit.names[element.tail.index[k]]} to {circuit.names[element.head.index[k]]}"


def _ties(circuit):
    """Rigid relations between nodes, from voltage sources and amplifiers."""
    ties, source = [], circuit.input_size
    for name, e in circuit.elements.items():
        if isinstance(e, InputSources):
            ties += [
                _Tie(0, int(n), 1.0, k, g, name, None) for n, k, g in zip(e.plus.index, e.number, e.gain, strict=True)
            ]
        elif isinstance(e, VoltageSources):
            for i, (plus, minus) in enumerate(zip(e.plus.index, e.minus.index, strict=True)):
                label = name if len(e.plus) == 1 else f"{name}[{i}]"
                ties.append(_Tie(int(minus), int(plus), 1.0, source, 1.0, label, None))
                source += 1
        elif isinstance(e, Amplifiers):
            pairs = zip(e.input.index, e.output.index, e.gain, e.current_gain, strict=True)
            ties += [_Tie(int(x), int(y), a, -1, 0.0, f"{name}[{i}]", c / a) for i, (x, y, a, c) in enumerate(pairs)]
    return ties


def _resolve(circuit, ties):
    """Root, gain and source offsets of each node; the ground's root is node 0."""
    count = len(circuit.names)
    neighbours: list[list[tuple[int, _Tie]]] = [[] for _ in range(count)]
    for tie in ties:
        neighbours[tie.a].append((tie.b, tie))
        neighbours[tie.b].append((tie.a, tie))
    roots, gain = np.full(count, -1), np.zeros(count)
    offsets: list[dict[int, float]] = [{} for _ in range(count)]
    came: dict[int, tuple[int, _Tie] | None] = {}
    used: set[int] = set()
    for root in range(count):
        if roots[root] >= 0:
            continue
        roots[root], gain[root], came[root] = root, 0.0 if root == 0 else 1.0, None
        queue = deque([root])
        while queue:
            node = queue.popleft()
            for other, tie in neighbours[node]:
                if id(tie) in used:
                    continue
                used.add(id(tie))
                if roots[other] >= 0:
                    raise _loop(circuit, came, node, other, tie)
                came[other], roots[other] = (node, tie), root
                gain[other], offsets[other] = _follow(gain[node], offsets[node], tie, forward=tie.a == node)
                queue.append(other)
    return roots, gain, offsets


def _follow(gain, offsets, tie, *, forward):
    if forward:
        new = {k: tie.gain * g for k, g in offsets.items()}
        new[tie.source] = new.get(tie.source, 0.0) + tie.source_gain
        return gain * tie.gain, new
    new = dict(offsets)
    new[tie.source] = new.get(tie.source, 0.0) - tie.source_gain
    return gain / tie.gain, {k: g / tie.gain for k, g in new.items()}


def _loop(circuit, came, node, other, tie):
    def path(n):
        labels = {}
        while came[n] is not None:
            n, t = came[n]
            labels[id(t)] = t.label
        return labels

    one, two = path(node), path(other)
    around = {**{k: v for k, v in one.items() if k not in two}, **{k: v for k, v in two.items() if k not in one}}
    names = ", ".join(f"`{n}`" for n in sorted({tie.label, *around.values()}))
    return VoltageLoopError(
        f"Voltage sources {names} form a loop: node `{circuit.names[other]}` would be held twice. Remove one of "
        f"them, or "
        "put a resistor in series."
    )


def _check_outputs(topology, weight):
    minus = () if topology.output_minus is None else topology.output_minus.array
    unit, sources, size = topology.unit.array, topology.offset_source.array, topology.input_size
    for n in (*topology.output_plus.array, *minus):
        if unit[n] < 0:
            raise ValueError(f"Output node `{topology.names[n]}` is held by a source; outputs must be free nodes.")
        if (sources[topology.offset_node.array == n] < size).any():
            raise ValueError(
                f"Output node `{topology.names[n]}` is tied to an input by voltage sources; read the other end "
                f"of the tie."
            )
        if weight[n] != 1.0:
            raise InconsistentAmplifierWeights(
                f"Output node `{topology.names[n]}` lies before an amplifier that another output lies behind, "
                f"and counts "
                f"{weight[n]:g} times as much. Read outputs of one stage only, or use current_gain = gain."
            )


def ideal_bounds(topology: Topology, name: str, element: Branches) -> list[tuple[int, float, np.ndarray, np.ndarray]]:
    """Bounds that ideal diodes set: (unit, side, source, source gain) with side +1 for upper and -1 for lower.

    Raises:
        CircuitError: where neither end, or not only one, is held by constant sources.
    """
    assert isinstance(element.device, IdealDiode)
    unit, gain = topology.unit.array, topology.gain.array
    bounds = []
    for k, (t, h) in enumerate(zip(element.tail.index, element.head.index, strict=True)):
        free, held, sign = (t, h, 1.0) if unit[h] < 0 else (h, t, -1.0)
        if unit[free] < 0 or unit[held] >= 0:
            raise CircuitError(
                f"Ideal diode {k} of `{name}` ({topology.names[t]} to {topology.names[h]}) must join one free "
                f"node to ground "
                "or a constant source. Between free nodes use `PiecewiseLinearDiode` with a large `on_conductance`."
            )
        coefficients: dict[int, float] = {}
        for n, factor in ((held, 1.0), (free, -1.0)):
            at = topology.offset_node.array == n
            for s, g in zip(topology.offset_source.array[at], topology.offset_gain.array[at], strict=True):
                coefficients[int(s)] = coefficients.get(int(s), 0.0) + factor * float(g) / float(gain[free])
        if any(s < topology.input_size for s in coefficients):
            raise CircuitError(
                f"Ideal diode {k} of `{name}` is tied to an input; its bound must be constant. Use "
                "`PiecewiseLinearDiode` with a large `on_conductance`."
            )
        sources = np.array(list(coefficients), int)
        bounds.append((int(unit[free]), sign * np.sign(gain[free]), sources, np.array(list(coefficients.values()))))
    return bounds
