r"""Circuits as SPICE netlists, both ways.

Exported is what every SPICE reads. What it has no words for (which resistors form a crossbar, what is trained within
which bounds, which nodes are outputs) travels in comments, and `from_spice` of an exported text gives the same
circuit to the last bit. Where a value in the text was edited, the text counts.

Exact in SPICE are resistors, sources, amplifiers, capacitors and `SpiceDiode`. `ShockleyDiode` differs below
$-3nV_T$ by at most 5 % of its saturation current. Ideal and piecewise-linear diodes become sharp junctions
($n = 0.002$), with a forward drop of about a millivolt.
"""

import dataclasses
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqprop.bridges.errors import NetlistError
from eqprop.bridges.netlist_text import Card, Model, Netlist, read_netlist, write_netlist
from eqprop.bridges.spice_import import circuit_of
from eqprop.bridges.spice_structure import describe, rebuild
from eqprop.substrates.circuit.devices import (
    AntiparallelDiodes,
    Device,
    IdealDiode,
    NortonSource,
    PiecewiseLinearDiode,
    ShockleyDiode,
    SpiceDiode,
    thermal_voltage,
)
from eqprop.substrates.circuit.elements import (
    Amplifiers,
    Branches,
    BranchGroup,
    Capacitors,
    CurrentSources,
    Element,
    InputSources,
    VoltageSources,
)
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network

__all__ = ["OPEN", "TIGHT", "from_spice", "netlist_of", "to_spice"]

OPEN = 1e30
"""Resistance that stands for a conductance of zero: no float64 sum of currents notices it. [ohm]"""
SHARP = {"is": 1e-9, "n": 0.002}
"""Junction that stands for an ideal diode."""
TIGHT = {"reltol": 1e-9, "abstol": 1e-16, "vntol": 1e-12}
"""Tolerances at which ngspice is limited by rounding alone."""


def to_spice(
    network: Network,
    inputs: Float[Array | np.ndarray, " input"] | None = None,
    *,
    title: str = "eqprop circuit",
    structure: bool = True,
    analyses: tuple[str, ...] = (".op",),
    options: Mapping[str, float] = TIGHT,
) -> str:
    """The netlist of a circuit, with its present parameters.

    Args:
        network: The compiled circuit.
        inputs: Inputs of one example, which set the input sources; zero if left out.
        title: First line.
        structure: Whether to add the comments that `from_spice` needs to restore groups and training.
        analyses: Lines such as `.op` or `.tran 1n 1u uic`.
        options: Simulator options, besides `gmin`, `temp` and `tnom`, which the diodes determine.

    Returns:
        The text.
    """
    netlist = netlist_of(network, inputs, title=title, structure=structure, options=options)
    return write_netlist(netlist, analyses=analyses)


def netlist_of(
    network: Network,
    inputs: Float[Array | np.ndarray, " input"] | None = None,
    *,
    title: str = "eqprop circuit",
    structure: bool = False,
    options: Mapping[str, float] = TIGHT,
) -> Netlist:
    """As `to_spice`, before it is text."""
    size = network.topology.input_size
    values = np.zeros(size) if inputs is None else np.asarray(inputs, float).reshape(-1)
    if len(values) != size:
        raise ValueError(f"`inputs` hold {len(values)} numbers; this circuit has {size} inputs.")
    names, items, held = network.topology.names, network.items(), network.topology.units
    _check_names(names, [name for name, _ in items])
    remark = json.dumps(describe(network), separators=(",", ":")) if structure else ""
    written = _write(names, items, network.minimal_conductance, held, values)
    return dataclasses.replace(written, title=title, options={**written.options, **options}, remark=remark)


def _write(names, items, minimal_conductance, units, inputs):
    writer = _Writer(names, items, inputs)
    for name, element in items:
        writer.element(name, element)
    if minimal_conductance:
        # From every free node to ground: what holds weakly grounded nodes.
        ground = ["0"] * len(units)
        writer.put("R", "gmin_", [names[n] for n in units], ground, 1 / np.full(len(units), minimal_conductance))
    options = {"gmin": writer.gmin, "temp": writer.celsius, "tnom": writer.celsius}
    return Netlist("", tuple(writer.cards), tuple(writer.models.values()), options)


def _check_names(nodes, elements):
    seen = {"gnd": "ground"}
    for name in (*nodes, *(f"elements {n}" for n in elements)):
        if name.lower() in seen:
            raise ValueError(
                f"`{name}` and `{seen[name.lower()]}` are one name to SPICE, which ignores case; rename one of them."
            )
        seen[name.lower()] = name


class _Writer:
    """Collects the cards of a network."""

    def __init__(self, names, items, inputs):
        self.inputs = inputs
        self.names = names
        self.cards: list[Card] = []
        self.models: dict[str, Model] = {}
        junctions = [d for _, e in items if isinstance(e, Branches) for d in _junctions(e.device)]
        # One gmin and one temperature a netlist: the smallest and the first; differences are made up for by cards.
        self.gmin = min((_gmin(d) for d in junctions), default=1e-12)
        self.celsius = junctions[0].celsius if junctions else 27.0

    def element(self, name: str, element: Element) -> None:
        if isinstance(element, Branches):
            self._branches(name, element.tail.index, element.head.index, element.device)
        elif isinstance(element, BranchGroup):
            self._resistors(name, element.tail.index, element.head.index, element.quantities()["conductance"].value)
        elif isinstance(element, InputSources):
            each = np.asarray(element.gain) * self.inputs[list(element.number)]
            self._pairs("V", name, element.plus.index, 0 * element.plus.index, each)
        elif isinstance(element, VoltageSources):
            self._pairs("V", name, element.plus.index, element.minus.index, element.voltage.value)
        elif isinstance(element, CurrentSources):
            self._pairs("I", name, element.out_of.index, element.into.index, element.current.value)
        elif isinstance(element, Capacitors):
            self._pairs("C", name, element.tail.index, element.head.index, element.capacitance.value)
        elif isinstance(element, Amplifiers):
            self._amplifiers(name, element)
        else:
            raise ValueError(f"`{name}` is a `{type(element).__name__}`, which has no SPICE card.")

    def put(self, kind, name, tails, heads, values):
        """One card for each pair of named nodes."""
        values = np.broadcast_to(np.ravel(np.asarray(values, float)), (len(tails),))
        for k, (tail, head, value) in enumerate(zip(tails, heads, values, strict=True)):
            self.cards.append(Card(f"{kind}{name}_{k}", (tail, head), float(value)))

    def _pairs(self, kind, name, tails, heads, values):
        self.put(kind, name, [self.names[t] for t in tails], [self.names[h] for h in heads], values)

    def _resistors(self, name, tails, heads, conductance):
        self._pairs("R", name, tails, heads, resistance(conductance))

    def _amplifiers(self, name, element):
        # E copies the voltage forward; a source of 0 V behind it senses the output current, which F draws before it.
        rows = zip(element.input.index, element.output.index, element.gain, element.current_gain, strict=True)
        for k, (x, y, gain, current_gain) in enumerate(rows):
            before, behind, sense = self.names[x], self.names[y], f"{name}_{k}_s"
            self.cards.append(Card(f"E{name}_{k}", (sense, "0", before, "0"), gain))
            self.cards.append(Card(f"Vsense_{name}_{k}", (sense, behind), 0.0))
            self.cards.append(Card(f"F{name}_{k}", (before, "0"), current_gain, f"Vsense_{name}_{k}"))

    def _branches(self, name, tails, heads, device: Device):
        if isinstance(device, NortonSource):
            inner = [f"{name}_{k}_e" for k in range(len(tails))]
            self.put("R", name, [self.names[t] for t in tails], inner, resistance(device.conductance.value))
            self.put("V", name, inner, [self.names[h] for h in heads], device.voltage.value)
        elif isinstance(device, AntiparallelDiodes):
            self._branches(f"{name}_f", tails, heads, device.diode)
            self._branches(f"{name}_r", heads, tails, device.diode)
        elif isinstance(device, PiecewiseLinearDiode):
            inner = [[f"{name}_{k}_{part}" for k in range(len(tails))] for part in "ab"]
            self._junctions(name, [self.names[t] for t in tails], inner[0], [SHARP] * len(tails))
            self.put("R", name, inner[0], inner[1], resistance(device.on_conductance.value))
            self.put("V", name, inner[1], [self.names[h] for h in heads], device.threshold.value)
        elif isinstance(device, IdealDiode):
            self._junctions(name, [self.names[t] for t in tails], [self.names[h] for h in heads], [SHARP] * len(tails))
        elif isinstance(device, ShockleyDiode | SpiceDiode):
            self._diodes(name, [self.names[t] for t in tails], [self.names[h] for h in heads], device)
        elif "conductance" in device.quantities():
            self._resistors(name, tails, heads, device.quantities()["conductance"].value)
        else:
            raise ValueError(f"`{name}` holds a `{type(device).__name__}`, which has no SPICE card.")

    def _diodes(self, name, tails, heads, device):
        scale = thermal_voltage(device.celsius) / thermal_voltage(self.celsius)
        saturation, emission = (
            np.broadcast_to(np.ravel(np.asarray(q.value, float)), (len(tails),))
            for q in (device.saturation_current, device.emission)
        )
        emission = emission if scale == 1 else emission * scale
        parameters = [{"is": float(i), "n": float(n)} for i, n in zip(saturation, emission, strict=True)]
        self._junctions(name, tails, heads, parameters)
        if _gmin(device) > self.gmin:
            self.put("R", f"{name}_g", tails, heads, np.full(len(tails), 1 / (_gmin(device) - self.gmin)))

    def _junctions(self, name, tails, heads, parameters):
        alike = all(p == parameters[0] for p in parameters)
        for k, (tail, head, each) in enumerate(zip(tails, heads, parameters, strict=True)):
            model = f"d{name}" if alike else f"d{name}_{k}"
            self.models.setdefault(model, Model(model, each))
            self.cards.append(Card(f"D{name}_{k}", (tail, head), None, model))


def resistance(conductance: Float[Array | np.ndarray, "*branch"]) -> Float[np.ndarray, "*branch"]:
    """Resistances for conductances; `OPEN` where they are zero. [ohm]"""
    conductance = np.asarray(conductance, float)
    safe = np.where(conductance == 0, 1.0, conductance)
    return np.where(conductance == 0, OPEN, 1 / safe)


def _junctions(device):
    inner = device.diode if isinstance(device, AntiparallelDiodes) else device
    return [inner] if isinstance(inner, ShockleyDiode | SpiceDiode) else []


def _gmin(device):
    return device.minimal_conductance if isinstance(device, SpiceDiode) else 0.0


def from_spice(text: str, *, outputs: list[str] | None = None, inputs: list[str] | None = None) -> Circuit:
    r"""The circuit of a netlist.

    A text that `to_spice` wrote gives back its circuit. Any other netlist of R, D, V, I, C and pairs of E and F gives
    one group of resistors `R`, of voltage sources `V`, current sources `I`, capacitors `C`, of diodes per
    model (under the model's name), and of amplifiers `A`, in the order of the text. Nodes keep their names, in lower
    case.

    Args:
        text: The netlist.
        outputs: Nodes to be read and nudged; needed where the text does not say.
        inputs: Grounded voltage sources that the inputs of each example set, in this order.

    Returns:
        The circuit, ready for `compile`.

    Raises:
        NetlistError: for what is not supported, naming the line.

    Example:
        >>> circuit = from_spice("divider\nV1 in 0 2\nR1 in out 1k\nR2 out 0 1k\n.end", outputs=["out"])
        >>> circuit.names
        ['0', 'in', 'out']
    """
    netlist = read_netlist(text)
    if netlist.remark:
        return _restore(netlist)
    return circuit_of(netlist, outputs, inputs)


def _restore(netlist: Netlist) -> Circuit:
    """The exported circuit, with values taken from the cards where these were edited."""
    try:
        structure = json.loads(netlist.remark)
        circuit = rebuild(structure)
        least, units = structure["minimal_conductance"], structure["units"]
    except (KeyError, TypeError, ValueError) as error:
        raise NetlistError(
            f"The `*eqprop` comments of this netlist are damaged ({error}). Remove them all to read the cards alone."
        ) from error
    found = {card.name.lower(): card for card in netlist.cards}
    remedy = "Remove all `*eqprop` comments to read the cards as they stand."
    written = _write(circuit.names, list(circuit.elements.items()), least, units, np.zeros(circuit.input_size))
    changed: dict[str, float] = {}
    for card in written.cards:
        now = found.pop(card.name.lower(), None)
        if now is None:
            raise NetlistError(f"The card `{card.name}` is missing. {remedy}")
        same_nodes = now.nodes == tuple(node.lower() for node in card.nodes)
        if not same_nodes or (now.model or "").lower() != (card.model or "").lower():
            raise NetlistError(f"Line {now.line}: `{now.name}` was rewired. {remedy}")
        if now.value != card.value and not _sets_input(circuit, card.name):
            changed[card.name] = now.value
    if found:
        extra = next(iter(found.values()))
        raise NetlistError(f"Line {extra.line}: `{extra.name}` was added. {remedy}")
    models = {m.name: dict(m.parameters) for m in netlist.models}
    for model in written.models:
        if models.get(model.name.lower()) != dict(model.parameters):
            raise NetlistError(f"The model `{model.name}` was changed. {remedy}")
    for name, value in changed.items():
        _edit(circuit, name, value, remedy)
    return circuit


def _sets_input(circuit, card):
    return card[0] == "V" and isinstance(circuit.elements.get(card[1:].rpartition("_")[0]), InputSources)


def _edit(circuit, card, value, remedy):
    group, _, index = card[1:].rpartition("_")
    element = circuit.elements.get(group)
    names = {"R": "conductance", "V": "voltage", "I": "current", "C": "capacitance"}
    quantities = {} if element is None else element.quantities()
    key = names.get(card[0])
    if key not in quantities:
        raise NetlistError(f"The value of `{card}` was changed, which the comments cannot follow. {remedy}")
    old = quantities[key]
    array = np.array(old.value)
    array.reshape(-1)[int(index)] = 1 / value if card[0] == "R" else value
    new = old.at(jnp.asarray(array))
    circuit.elements[group] = jax.tree.map(lambda q: new if q is old else q, element, is_leaf=lambda q: q is old)
