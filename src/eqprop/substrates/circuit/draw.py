"""Circuits for reports: a drawing of small ones, and tables of voltages, currents and power."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float

from eqprop.substrates.circuit.devices import AntiparallelDiodes, NortonSource, Resistor
from eqprop.substrates.circuit.draw_crossbars import draw_crossbars, is_layered
from eqprop.substrates.circuit.elements import Amplifiers, Branches, BranchGroup, CurrentSources, Nodes
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.power import balance
from eqprop.substrates.circuit.units import engineering

if TYPE_CHECKING:
    import schemdraw

__all__ = ["draw", "power_table", "voltage_table"]

LARGEST_DRAWING = 40
"""Branches; a drawing of more is no longer read."""
LARGEST_LAYERED = 200
"""The same for layered circuits, whose crossbars are drawn as such."""


def draw(network: Network) -> "schemdraw.Drawing":
    """A drawing: crossbars with a resistor at each crossing where the circuit is layered, else symbols between nodes.

    Args:
        network: A small circuit.

    Returns:
        A drawing of schemdraw: `draw(network).save("circuit.svg")`.

    Raises:
        ValueError: for circuits of more than 40 branches, or layered ones of more than 200.
        ImportError: without schemdraw.
    """
    layered = is_layered(network)
    count = sum(len(e) for _, e in network.items() if isinstance(e, BranchGroup))
    largest = LARGEST_LAYERED if layered else LARGEST_DRAWING
    if count > largest:
        raise ValueError(f"The circuit has {count} branches; drawings are for at most {largest}. Use the tables.")
    try:
        import schemdraw
        from schemdraw import elements as elm
    except ImportError as error:
        raise ImportError("Drawing circuits needs schemdraw: `pip install schemdraw`.") from error
    if layered:
        return draw_crossbars(network)
    branches = _drawn(network)
    places = _places(network, branches)
    drawing = schemdraw.Drawing(show=False, canvas="svg")
    symbols = {
        "resistor": elm.Resistor,
        "diode": elm.Diode,
        "source": elm.SourceV,
        "current": elm.SourceI,
        "amplifier": elm.Opamp,
    }
    for kind, tail, head, label in branches:
        start = places[tail] if tail else (places[head][0], places[head][1] - 2)
        end = places[head] if head else (places[tail][0], places[tail][1] - 2)
        symbol = elm.RBox if kind == "amplifier" else symbols[kind]
        drawing += symbol().at(start).to(end).label(label, fontsize=8)
        for node, place in ((tail, start), (head, end)):
            if node == 0:
                drawing += elm.Ground().at(place)
    for node, place in places.items():
        drawing += elm.Dot().at(place).label(network.topology.names[node], loc="top", fontsize=9)
    for node in np.flatnonzero(network.topology.unit.array < 0):
        if node in places:
            drawing += elm.Vdd().at(places[node])
    return drawing


def _drawn(network):
    """(kind, tail, head, label) of every branch that is drawn."""
    found = []
    for _, e in network.items():
        if isinstance(e, BranchGroup):
            kind, labels = _symbol(e)
            found += [(kind, int(t), int(h), s) for t, h, s in zip(e.tail.index, e.head.index, labels, strict=True)]
            if isinstance(e, Branches) and isinstance(e.device, AntiparallelDiodes):
                found += [(kind, int(h), int(t), "") for t, h in zip(e.tail.index, e.head.index, strict=True)]
        elif isinstance(e, CurrentSources):
            values = np.ravel(np.asarray(e.current.value))
            pairs = zip(e.out_of.index, e.into.index, values, strict=True)
            found += [("current", int(t), int(h), engineering(float(v), "A")) for t, h, v in pairs]
        elif isinstance(e, Amplifiers):
            pairs = zip(e.input.index, e.output.index, e.gain, strict=True)
            found += [("amplifier", int(x), int(y), f"×{a:g}") for x, y, a in pairs]
    return found


def _symbol(e):
    if isinstance(e, Branches) and isinstance(e.device, NortonSource):
        return "source", [engineering(float(v), "V") for v in np.ravel(np.asarray(e.device.voltage.value))]
    if isinstance(e, Branches) and not isinstance(e.device, Resistor):
        return "diode", [""] * len(e)
    conductances = np.ravel(np.asarray(e.quantities()["conductance"].value))
    return "resistor", ["open" if g == 0 else engineering(1 / float(g), "Ω") for g in conductances]


def _places(network, branches):
    """Columns by the distance from sources, rows in the order of the nodes."""
    unit = network.topology.unit.array
    nodes = sorted({n for _, t, h, _ in branches for n in (t, h)} - {0})
    column = {n: 0 for n in nodes if unit[n] < 0}
    while True:
        reached = {
            b for _, t, h, _ in branches for a, b in ((t, h), (h, t)) if a in column and b not in column and b != 0
        }
        if not reached:
            break
        last = max(column.values()) + 1
        column |= dict.fromkeys(reached, last)
    for n in nodes:
        column.setdefault(n, 0)
    rows: dict[int, int] = {}
    places = {}
    for n in nodes:
        row = rows.get(column[n], 0)
        rows[column[n]] = row + 1
        places[n] = (4.0 * column[n], -3.0 * row)
    return places


def voltage_table(
    network: Network,
    inputs: Float[Array, " input"],
    phases: dict[str, Float[Array, " unit"]],
    *,
    nodes: Nodes | None = None,
) -> list[dict[str, str | float]]:
    """Node voltages side by side: a row for each node, a column for each phase. [V]

    Args:
        network: The circuit.
        inputs: Inputs of the example.
        phases: States by the name of the phase: `{"free": ..., "nudged": ...}`.
        nodes: Which nodes; all but ground by default.
    """
    index = np.arange(1, len(network.topology.names)) if nodes is None else nodes.index
    voltages = {name: np.asarray(network.voltages(state, inputs)) for name, state in phases.items()}
    return [{"node": network.topology.names[n]} | {name: float(v[n]) for name, v in voltages.items()} for n in index]


def power_table(network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"]) -> dict[str, str]:
    """Power, balance and Kirchhoff's residual of an operating point, in words."""
    books = balance(network, state, inputs)
    worst = network.topology.name(int(books.worst))
    return {
        "dissipated power": engineering(float(books.absorbed), "W"),
        "delivered power": engineering(float(books.delivered), "W"),
        "power balance": f"{abs(float(books.tellegen)):.1e}",
        "Kirchhoff's residual": f"{engineering(float(books.kirchhoff), 'A')} at node `{worst}`",
    }
