"""A foreign netlist as a circuit: cards gathered into one group per kind."""

import numpy as np

from eqprop.bridges.errors import NetlistError
from eqprop.bridges.netlist_text import Card, Netlist
from eqprop.substrates.circuit.devices import SpiceDiode
from eqprop.substrates.circuit.elements import Amplifiers, InputSources, Nodes
from eqprop.substrates.circuit.netlist import Circuit

__all__ = ["circuit_of"]


def circuit_of(netlist: Netlist, outputs: list[str] | None, inputs: list[str] | None) -> Circuit:
    """The circuit of a netlist without structure comments: see `from_spice`."""
    cards = {card.name.lower(): card for card in netlist.cards}
    amplifiers, cards = _amplifiers(cards)
    circuit = Circuit()
    seen = dict.fromkeys(n for card in cards.values() for n in card.nodes if n != "0")
    seen |= dict.fromkeys(n for ends in amplifiers for n in ends[:2] if n != "0")
    circuit.names += list(seen)
    number = {name: k for k, name in enumerate(circuit.names)}

    def group(kind):
        return [card for name, card in cards.items() if name[0] == kind]

    def ends(chosen):
        tail, head = (Nodes(np.array([number[card.nodes[side]] for card in chosen])) for side in (0, 1))
        return tail, head

    def values(chosen):
        return np.array([card.value for card in chosen])

    _check_self_loops(cards)
    sources = _input_sources(group("v"), [name.lower() for name in inputs or ()])
    if sources:
        plus, _ = ends(sources)
        circuit.elements["inputs"] = InputSources(plus, tuple(range(len(sources))), (1.0,) * len(sources))
        circuit.groups["inputs"] = plus
        circuit.input_size = len(sources)
    if fixed := [card for card in group("v") if card not in sources]:
        plus, minus = ends(fixed)
        circuit.floating_source("V", plus, minus, values(fixed))
    if resistors := group("r"):
        circuit.resistors("R", *ends(resistors), resistance=values(resistors))
    if currents := group("i"):
        out_of, into = ends(currents)
        circuit.current_source("I", into, values(currents), out_of=out_of)
    if capacitors := group("c"):
        tail, head = ends(capacitors)
        circuit.capacitors("C", tail, head, values(capacitors))
    _diodes(circuit, netlist, group("d"), ends)
    if amplifiers:
        before, behind = (Nodes(np.array([number[pair[side]] for pair in amplifiers])) for side in (0, 1))
        gains, backs = (np.array([pair[k] for pair in amplifiers]) for k in (2, 3))
        circuit.elements["A"] = Amplifiers(before, behind, tuple(gains.tolist()), tuple(backs.tolist()))
    if not outputs:
        raise NetlistError(
            f'Name the nodes to be read: `from_spice(text, outputs=["..."])`; there are: {", ".join(seen)}.'
        )
    for name in outputs:
        if name.lower() not in number:
            raise NetlistError(f"There is no node `{name}` to read; there are: {', '.join(seen)}.")
    circuit.outputs(Nodes(np.array([number[name.lower()] for name in outputs])))
    return circuit


def _check_self_loops(cards: dict[str, Card]) -> None:
    for card in cards.values():
        if card.nodes[0] == card.nodes[1]:
            raise NetlistError(f"Line {card.line}: `{card.name}` joins node `{card.nodes[0]}` to itself; remove it.")


def _input_sources(sources: list[Card], names: list[str]) -> list[Card]:
    by_name = {card.name.lower(): card for card in sources}
    for name in names:
        if name not in by_name:
            raise NetlistError(f"There is no voltage source `{name}` to set; there are: {', '.join(by_name)}.")
        if by_name[name].nodes[1] != "0":
            raise NetlistError(
                f"Line {by_name[name].line}: input source `{by_name[name].name}` must go from a node to ground."
            )
    return [by_name[name] for name in names]


def _diodes(circuit, netlist, diodes, ends):
    gmin = netlist.options.get("gmin", 1e-12)
    celsius = netlist.options.get("temp", 27.0)
    if celsius != netlist.options.get("tnom", 27.0):
        raise NetlistError(
            "Options `temp` and `tnom` differ, which changes saturation currents; give `is` at `temp`, and tnom = temp."
        )
    for model in netlist.models:
        chosen = [card for card in diodes if card.model == model.name]
        if not chosen:
            continue
        saturation, emission = model.parameters.get("is", 1e-14), model.parameters.get("n", 1.0)
        try:
            device = SpiceDiode(saturation, emission, minimal_conductance=gmin, celsius=celsius)
        except ValueError as error:
            raise NetlistError(f"Line {model.line}: model `{model.name}`: {error}") from error
        name = model.name if model.name not in ("r", "v", "i", "c", "a", "inputs") else f"{model.name}_"
        circuit.diodes(name, *ends(chosen), device)


def _amplifiers(cards: dict[str, Card]) -> tuple[list[tuple[str, str, float, float]], dict[str, Card]]:
    """E + sense source + F triples as (before, behind, gain, current gain), and the remaining cards."""
    rest = dict(cards)
    found = []
    for name, card in cards.items():
        if name[0] != "e":
            continue
        inner, ground, before, reference = card.nodes
        sense = [v for v in rest.values() if v.name[0].lower() == "v" and v.nodes[0] == inner and v.value == 0]
        back = [
            f for f in rest.values() if f.name[0].lower() == "f" and sense and (f.model or "") == sense[0].name.lower()
        ]
        if ground != "0" or reference != "0" or not sense or not back or back[0].nodes != (before, "0"):
            raise NetlistError(
                f"Line {card.line}: `{card.name}` is not half of a bidirectional amplifier. A voltage-controlled "
                "source alone has no co-content; supported is `E s 0 x 0 A`, `V s y 0`, `F x 0 V c` together."
            )
        others = [c for c in rest.values() if inner in c.nodes and c is not card and c is not sense[0]]
        if others:
            raise NetlistError(
                f"Line {others[0].line}: `{others[0].name}` joins the inner node `{inner}` of an amplifier."
            )
        found.append((before, sense[0].nodes[1], card.value, back[0].value))
        for used in (card, sense[0], back[0]):
            del rest[used.name.lower()]
    for card in rest.values():
        if card.name[0].lower() == "f":
            raise NetlistError(
                f"Line {card.line}: `{card.name}` is not half of a bidirectional amplifier; supported is "
                "`E s 0 x 0 A`, `V s y 0`, `F x 0 V c` together."
            )
    return found, rest
