"""Sections on circuits: the drawing, node voltages in both phases, power and Kirchhoff's residual."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqprop.cost import SquaredError
from eqprop.settle.base import Solver, settle
from eqprop.settle.graph import GraphNewton, Stepped
from eqprop.substrates.circuit.devices import Resistor
from eqprop.substrates.circuit.draw import draw
from eqprop.substrates.circuit.drn import DeepResistiveNetwork
from eqprop.substrates.circuit.elements import Branches, BranchGroup, InputSources, VoltageSources
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.power import Balance, balance
from eqprop.substrates.circuit.projection import at_bounds
from eqprop.substrates.circuit.units import engineering
from eqprop.system import Forced
from eqprop.train.report.figure import INK, MUTED, SERIES, panel
from eqprop.train.report.section import Headline, LeftOut, Picture, Section

__all__ = ["layered_sections", "network_sections"]

FEW_NODES = 40
"""Up to so many nodes have a row of the table each."""

_MEANING = (
    "The free phase, and what a weak current into the outputs, of either sign, changes: only that is learned from. "
    "In a linear circuit the two changes are opposite and equal; what differs is curvature of the diodes."
)


class _Phases(NamedTuple):
    """Node voltages of one example by group [V], and the books of several free phases."""

    free: Mapping[str, Float[np.ndarray, " node"]]
    plus: Mapping[str, Float[np.ndarray, " node"]]
    minus: Mapping[str, Float[np.ndarray, " node"]]
    beta: float
    books: Balance
    names: tuple[str, ...]
    """Of the units of the state."""


def network_sections(
    network: Network, inputs: Float[Array, "batch input"], targets: Float[Array, "batch output"], beta: float
) -> list[Section]:
    """The sections on a circuit, solved by Newton's method.

    Args:
        network: The circuit as trained.
        inputs: Of some examples; the first one's voltages are shown.
        targets: Of these.
        beta: The nudging strength it was trained with. [S]
    """
    solver = Stepped(GraphNewton(rtol=1e-10, atol=1e-12))
    free, phases = _settled(network, solver, inputs, targets, beta)
    voltages = [np.asarray(network.voltages(state, inputs[0])) for state in phases]
    held = network.topology.unit.array < 0
    groups = {
        name: nodes.index for name, nodes in network.groups if not (held[nodes.index].all() or not len(nodes.index))
    }
    by_group = [{name: v[index] for name, index in groups.items()} for v in voltages]
    books = jax.vmap(lambda s, x: balance(network, s, x))(free, inputs)
    names = tuple(network.topology.name(k) for k in range(len(network.topology.units)))
    found = _Phases(by_group[0], by_group[1], by_group[2], beta, books, names)
    labels = {name: [network.topology.names[n] for n in index] for name, index in groups.items()}
    return [_circuit(network), _voltages(found, labels), _power(found)]


def layered_sections(
    network: DeepResistiveNetwork,
    solver: Solver,
    inputs: Float[Array, "batch input"],
    targets: Float[Array, "batch output"],
    beta: float,
) -> list[Section]:
    """The sections on a deep resistive network.

    Args:
        network: As trained.
        solver: The one it was trained with, which decides how far Kirchhoff's law is met.
        inputs: Of some examples; the first one's voltages are shown.
        targets: Of these.
        beta: The nudging strength it was trained with. [S]
    """
    free, phases = _settled(network, solver, inputs, targets, beta)
    layers = [*(f"hidden {k}" for k in range(1, len(network.currents))), "output"]
    by_layer = [dict(zip(layers, map(np.asarray, state), strict=True)) for state in phases]
    books = jax.vmap(network.books)(free, inputs)
    labels = {layer: [f"{layer} {k}" for k in range(len(v))] for layer, v in by_layer[0].items()}
    names = tuple(name for layer in layers for name in labels[layer])
    found = _Phases(by_layer[0], by_layer[1], by_layer[2], beta, books, names)
    note = (
        "Conductances are counted in siemens and inputs in volts, as in the literature; with all conductances a "
        "millionth as large the voltages are the same and the power a millionth."
    )
    return [_crossbars(network), _voltages(found, labels), _power(found, note)]


def _settled(system, solver, inputs, targets, beta):
    """Free states of all examples, and the first one's free and nudged states."""

    def phases(x, y):
        free = settle(system, x, solver, throw=False)

        def nudged(strength):
            system_now = Forced(system, SquaredError(), y, free, jnp.asarray(strength, y.dtype))
            return settle(system_now, x, solver, free=free, throw=False).restart

        return free.restart, nudged(beta), nudged(-beta), free.settled

    free, plus, minus, settled = jax.jit(jax.vmap(phases))(inputs, targets)
    if not bool(settled.all()):
        raise LeftOut(f"{int((~settled).sum())} of {len(settled)} free phases did not settle")
    return free, [jax.tree.map(lambda leaf: leaf[0], state) for state in (free, plus, minus)]


def _circuit(network):
    counts: dict[str, int] = {}
    for _, e in network.items():
        if isinstance(e, BranchGroup):
            kind = "resistors"
            if isinstance(e, Branches) and not isinstance(e.device, Resistor):
                kind = _words(type(e.device).__name__)
            counts[kind] = counts.get(kind, 0) + len(e)
        elif isinstance(e, InputSources | VoltageSources):
            counts["voltage sources"] = counts.get("voltage sources", 0) + len(e.plus)
    conductances = np.concatenate(
        [np.ravel(e.quantities()["conductance"].value) for _, e in network.items() if "conductance" in e.quantities()]
    )
    text = (
        f"{len(network.topology.units)} free nodes; {', '.join(f'{n} {kind}' for kind, n in counts.items())}. "
        f"Conductances from {engineering(float(conductances.min()), 'S')} to "
        f"{engineering(float(conductances.max()), 'S')}; {at_bounds(network)} trained values rest on a bound. "
        "`eqprop.bridges.spice.to_spice` writes the netlist."
    )
    try:
        drawing = draw(network)
    except (ValueError, ImportError) as error:
        return Section("The circuit", f"{text}\n\n{error}")
    described = f"Circuit diagram: {text}"
    caption = "Open circles are sources, full ones outputs. The wider a resistor is drawn, the more it conducts."
    return Section("The circuit", text, (Picture(_inline(drawing.get_imagedata("svg").decode(), described), caption),))


def _crossbars(network):
    rows = [("crossbar", "rows", "columns", "open", "median of the others", "largest")]
    for k, g in enumerate(network.conductances):
        g = np.asarray(g)
        conducting = g[g > 0]
        rows.append(
            (
                f"{k + 1}",
                f"{g.shape[0]:,}",
                f"{g.shape[1]:,}",
                f"{100 * float(np.mean(g == 0)):.1f} %",
                engineering(float(np.median(conducting)) if len(conducting) else 0.0, "S"),
                engineering(float(g.max()), "S"),
            )
        )
    count = sum(g.size for g in network.conductances)
    text = (
        f"{count:,} resistors in {len(network.conductances)} crossbars, an ideal diode at each of "
        f"{sum(b.size for b in network.currents[:-1]):,} hidden nodes: the first half is kept at or above ground, the "
        f"other half at or below. Every input of x holds a node at {network.input_gain:g} x volts and one at "
        f"−{network.input_gain:g} x volts. Too large to be drawn."
    )
    return Section("The circuit", text, table=tuple(rows))


def _voltages(found: _Phases, labels):
    title = "Node voltages, free and nudged"
    small = sum(len(v) for v in found.free.values()) <= FEW_NODES
    shift = {name: (found.plus[name] - v, found.minus[name] - v) for name, v in found.free.items()}
    if small:
        rows = [("node", "free", "change at +β", "change at −β")]
        for group, names in labels.items():
            for k, name in enumerate(names):
                moved = [engineering(float(change[k]), "V") for change in shift[group]]
                rows.append((name, f"{found.free[group][k]:+.6f} V", *moved))
    else:
        rows = [("nodes", "number", "lowest", "highest", "at a diode's wall", "change at +β, rms", "at −β, rms")]
        for group, v in found.free.items():
            moved = [engineering(float(np.sqrt(np.mean(change**2))), "V") for change in shift[group]]
            ends = [engineering(float(end), "V") for end in (v.min(), v.max())]
            rows.append((group, str(len(v)), *ends, f"{100 * float(np.mean(v == 0)):.0f} %", *moved))
    text = f"The first held-out example, β = {engineering(found.beta, 'S')}. {_MEANING}"
    return Section(title, text, (_free_picture(found, small), _shift_picture(shift, small)), tuple(rows))


def _free_picture(found, small):
    def draw_on(axes):
        start = 0
        for k, (group, v) in enumerate(found.free.items()):
            colour = SERIES[k % len(SERIES)]
            if small:
                axes.bar(range(start, start + len(v)), v, color=colour, width=0.75, label=group)
            else:
                axes.plot(np.linspace(0, 100, len(v)), np.sort(v), color=colour, label=group)
            start += len(v)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set(title="Free phase", ylabel="voltage [V]", xlabel="node" if small else "nodes, sorted [%]")
        axes.legend()

    lines = "; ".join(f"{g} from {v.min():.3g} to {v.max():.3g} V" for g, v in found.free.items())
    return Picture(panel(draw_on, name="voltages-free", describe=f"Node voltages in the free phase: {lines}."))


def _shift_picture(shift, small):
    scale, unit = _prefix(max(float(np.abs(change).max()) for pair in shift.values() for change in pair))

    def draw_on(axes):
        start = 0
        for k, (group, (up, down)) in enumerate(shift.items()):
            colour = SERIES[k % len(SERIES)]
            if small:
                axes.bar(range(start, start + len(up)), scale * up, color=colour, width=0.75, label=group)
                axes.plot(range(start, start + len(up)), scale * down, "o", color=INK, markersize=3)
            else:
                axes.plot(scale * up, scale * down, "o", color=colour, markersize=2.5, label=group)
            start += len(up)
        if small:
            axes.set(xlabel="node", ylabel=f"change [{unit}]", title="Nudged: bars at +β, dots at −β")
        else:
            axes.set(xlabel=f"change at +β [{unit}]", ylabel=f"change at −β [{unit}]", title="Nudged phases")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.legend()

    describe = "Change of every node voltage in the nudged phases with either sign of the current."
    return Picture(panel(draw_on, name="voltages-nudged", describe=describe))


def _power(found: _Phases, note: str = ""):
    b = found.books
    worst = int(np.argmax(np.asarray(b.kirchhoff)))
    node = found.names[int(b.worst[worst])]
    absorbed, delivered = np.asarray(b.absorbed), np.asarray(b.delivered)
    rows = (
        ("", f"over {len(absorbed)} held-out examples"),
        ("dissipated power, mean", engineering(float(absorbed.mean()), "W")),
        ("dissipated power, largest", engineering(float(absorbed.max()), "W")),
        ("delivered by the sources, mean", engineering(float(delivered.mean()), "W")),
        ("power balance (Tellegen), worst", f"{float(np.abs(np.asarray(b.tellegen)).max()):.1e} of the power"),
        ("Kirchhoff's residual, worst", f"{engineering(float(b.kirchhoff[worst]), 'A')}, at {node}"),
    )
    text = (
        "The power that inference takes while inputs are applied, and the books: currents computed branch by branch "
        "must cancel at every free node, and the sources must deliver what the branches dissipate. What is left over "
        "is how far the solver went. " + note
    )
    headlines = (
        Headline(engineering(float(absorbed.mean()), "W"), "power of an inference"),
        Headline(engineering(float(b.kirchhoff[worst]), "A"), "Kirchhoff's residual at the worst node"),
    )
    # Where the unit of conductance is a convention, so is the power: no figure for the head of a report.
    return Section("Power and Kirchhoff's law", text, table=rows, headlines=() if note else headlines)


def _prefix(largest):
    """Factor and unit in which a voltage is between 1 and 1000."""
    for scale, unit in ((1.0, "V"), (1e3, "mV"), (1e6, "µV"), (1e9, "nV")):
        if largest * scale >= 1:
            return scale, unit
    return 1e12, "pV"


def _words(name):
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower().replace("spice", "SPICE")
    return f"{words.removesuffix('s')}s"


def _inline(svg, describe):
    """The drawing in the page's colours and letters."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    svg = svg.replace(":black;", ":var(--ink);").replace("stroke-dasharray:-;", "")
    # Variables are known to styles only, not to attributes.
    svg = svg.replace('fill="black"', 'style="fill:var(--ink)"').replace('font-family="sans"', "")
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    alt = describe.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{alt}" {view[0]}>', svg, count=1)
