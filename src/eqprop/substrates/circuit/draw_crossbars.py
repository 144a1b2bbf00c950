"""Drawings of layered circuits: crossbars as crossbars, a resistor at every crossing.

Rows of the first crossbar are horizontal wires, its columns vertical ones, which go down to be the rows of the second;
its columns go right, and so on. A node with a second line (a bias that feeds two crossbars) has its name on both.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eqprop.substrates.circuit.devices import AntiparallelDiodes, Resistor
from eqprop.substrates.circuit.elements import Branches, BranchGroup, Crossbar, InputSources, VoltageSources
from eqprop.substrates.circuit.network import Network

if TYPE_CHECKING:
    import schemdraw

__all__ = ["draw_crossbars", "is_layered"]

PITCH, LEAD, SHUNT = 1.0, 1.0, 1.0
"""Between neighbouring wires, before their first crossing, and for each device to ground. [drawing unit]"""


class _Wire(NamedTuple):
    """A node's line: horizontal at height `at`, or vertical at that abscissa; from `begin` on, to the right or down."""

    horizontal: bool
    at: float
    begin: float
    shunts: float
    """Where on it devices to ground begin."""

    def point(self, along: float) -> tuple[float, float]:
        """A place on it, so far to the right or down."""
        return (along, self.at) if self.horizontal else (self.at, -along)

    def aside(self, along: float, distance: float) -> tuple[float, float]:
        """A place beside it: below a horizontal wire, right of a vertical one."""
        x, y = self.point(along)
        return (x, y - distance) if self.horizontal else (x + distance, y)


def is_layered(network: Network) -> bool:
    """Whether the circuit is crossbars, grounded sources, and devices from single nodes to ground, in this order."""
    held = network.topology.unit.array < 0
    bars = [e for _, e in network.items() if isinstance(e, Crossbar)]
    columns = {int(n) for bar in bars for n in bar.columns.index}
    for _, e in network.items():
        if isinstance(e, InputSources | Crossbar):
            continue
        if isinstance(e, VoltageSources) and held[e.plus.index].all():
            continue
        if isinstance(e, Branches) and all(_grounded(t, h) in columns for t, h in _ends(e)):
            continue
        return False
    return bool(bars)


def draw_crossbars(network: Network) -> "schemdraw.Drawing":
    """The drawing; wider strokes are larger conductances.

    Args:
        network: A circuit that `is_layered`.
    """
    import schemdraw

    drawing = schemdraw.Drawing(show=False, canvas="svg", unit=1.0)
    drawing.config(fontsize=9, lw=1.1, inches_per_unit=0.42, margin=0.4)
    wires, ends, crossings = _lay_out(network)
    strongest = max(float(np.max(_conductance(bar))) for bar, _, _ in crossings)
    for bar, rows, columns in crossings:
        for part in _resistors(_conductance(bar), rows, columns, strongest):
            drawing += part
    outputs = {int(n) for n in network.topology.output_plus.array}
    for part in _lines(network, wires, ends, outputs):
        drawing += part
    return drawing


def _lay_out(network):
    """The wires (node, wire), where each ends, and for each crossbar its row and column wires."""
    shunts = _shunts(network)
    wires: list[tuple[int, _Wire]] = []
    ends: dict[_Wire, float] = {}
    crossings = []
    before: dict[int, _Wire] = {}
    # The next wires: at this abscissa or depth; vertical ones begin at `down`, horizontal ones at `across`.
    across = down = 0.0
    for k, bar in enumerate(e for _, e in network.items() if isinstance(e, Crossbar)):
        horizontal, rows, columns = k % 2 == 0, {}, {}
        for n in (int(n) for n in bar.rows.index):
            if n not in before:
                before[n] = _Wire(horizontal, -down if horizontal else across, across if horizontal else down, 0.0)
                wires.append((n, before[n]))
                across, down = (across, down + PITCH) if horizontal else (across + PITCH, down)
            rows[n] = before[n]
        along = [abs(wire.at) for wire in rows.values()]
        first = (across if horizontal else down) + LEAD
        behind = max(along) + LEAD
        for i, n in enumerate(int(n) for n in bar.columns.index):
            place = first + i * PITCH
            columns[n] = _Wire(not horizontal, place if horizontal else -place, min(along) - 0.6 * PITCH, behind)
            wires.append((n, columns[n]))
        # Behind the last row, room for what joins columns to ground; then the next crossbar.
        reached = behind + SHUNT * max((len(shunts.get(n, ())) for n in columns), default=0)
        last = first + (len(columns) - 1) * PITCH
        ends |= dict.fromkeys(rows.values(), last + 0.6 * PITCH) | dict.fromkeys(columns.values(), reached)
        across, down = (last + PITCH, reached) if horizontal else (reached, last + PITCH)
        crossings.append((bar, list(rows.values()), list(columns.values())))
        before = columns
    return wires, ends, crossings


def _resistors(conductance, rows, columns, strongest) -> Iterator:
    from schemdraw import elements as elm

    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            share = float(conductance[i, j]) / strongest
            if share <= 0:
                continue
            x, y = (column.at, row.at) if row.horizontal else (row.at, column.at)
            width = 0.5 + 1.7 * share**0.5
            yield elm.Resistor().at((x - 0.55, y)).to((x, y - 0.55)).scale(0.3).linewidth(width)


def _lines(network, wires, ends, outputs) -> Iterator:
    from schemdraw import elements as elm

    held = network.topology.unit.array < 0
    shunts = _shunts(network)
    for n, wire in wires:
        name = network.topology.names[n]
        end = ends[wire]
        yield elm.Line().at(wire.point(wire.begin)).to(wire.point(end))
        side = "left" if wire.horizontal else "top"
        if held[n]:
            yield elm.Dot(open=True).at(wire.point(wire.begin)).label(name, loc=side)
        elif not shunts.get(n) and n not in outputs:
            yield elm.Label().at(wire.point(wire.begin)).label(name, loc=side)
        own = shunts.get(n, [])
        for k, (symbol, inward) in enumerate(own):
            along = wire.shunts + SHUNT * k + 0.1
            near, far = wire.point(along), wire.aside(along, 0.62)
            part = symbol().scale(0.5)
            yield part.at(far).to(near) if inward else part.at(near).to(far)
            yield elm.Ground().scale(0.5).at(far)
            yield elm.Dot(radius=0.05).at(near)
        if n in outputs:
            yield elm.Dot().at(wire.point(end)).label(name, loc="right" if wire.horizontal else "bottom")
        elif own:
            yield elm.Label().at(wire.aside(wire.shunts - 0.3, 0.3)).label(name, fontsize=7)


def _shunts(network):
    """(symbol, towards the node) of what joins each node to ground."""
    from schemdraw import elements as elm

    found: dict[int, list] = {}
    for _, e in network.items():
        if not isinstance(e, Branches):
            continue
        symbol = elm.Resistor if isinstance(e.device, Resistor) else elm.Diode
        for t, h in _ends(e):
            node = _grounded(t, h)
            found.setdefault(node, []).append((symbol, node == h))
            if isinstance(e.device, AntiparallelDiodes):
                found[node].append((symbol, node != h))
    return found


def _ends(group: BranchGroup):
    return [(int(t), int(h)) for t, h in zip(group.tail.index, group.head.index, strict=True)]


def _grounded(tail, head):
    """The node of a branch to ground; -1 for other branches."""
    return head if tail == 0 else tail if head == 0 else -1


def _conductance(bar):
    return np.asarray(bar.conductance.value, float)
