"""SPICE text: cards in and out, numbers that survive the round trip.

Only what every SPICE shares is written: R, D, V, I, E, F and C cards, `.model ... D(...)`, `.options`, comments. What
is read is that subset; anything else is an error that names the line.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from eqprop.bridges.errors import NetlistError

__all__ = ["Card", "Model", "Netlist", "number_text", "parse_number", "read_netlist", "write_netlist"]

_SUFFIXES = {"t": 12, "g": 9, "meg": 6, "k": 3, "m": -3, "u": -6, "µ": -6, "n": -9, "p": -12, "f": -15, "a": -18}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:e([+-]?\d+))?(meg|mil|[tgkmuµnpfa])?([a-zµΩ]*)", re.IGNORECASE)
_NODES = {"r": 2, "d": 2, "v": 2, "i": 2, "c": 2, "e": 4, "f": 2}
MARK = "*eqprop "
"""What begins the comment lines that hold what SPICE has no words for."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One element. `value` is its number, or None for a diode; `model` a diode's model, or the source that F reads."""

    name: str
    nodes: tuple[str, ...]
    value: float | None = None
    model: str | None = None
    line: int = 0


@dataclasses.dataclass(frozen=True)
class Model:
    """A diode model with its parameters: `is` [A], `n`."""

    name: str
    parameters: Mapping[str, float]
    line: int = 0


@dataclasses.dataclass(frozen=True)
class Netlist:
    """A netlist: cards in order, models, options, and the text of the marked comments."""

    title: str
    cards: tuple[Card, ...]
    models: tuple[Model, ...] = ()
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)
    remark: str = ""


def number_text(value: float) -> str:
    """The shortest text that reads back as the same float.

    Raises:
        ValueError: for NaN and infinity, which no SPICE reads.

    Example:
        >>> number_text(1000.0), number_text(1e-15)
        ('1000.0', '1e-15')
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"A netlist cannot hold {value}; every value must be finite.")
    return repr(value)


def parse_number(text: str) -> float:
    """A SPICE number: any case, engineering suffix, letters after it ignored (`1meg`, `2.2kohm`, `1e-3`, `1m`).

    The suffix is joined to the decimal exponent before rounding, so `10u` is the float nearest to 1e-5.

    Raises:
        ValueError: if it is no number.

    Example:
        >>> parse_number("1MEG"), parse_number("2.2kohm"), parse_number("10u") == 1e-5
        (1000000.0, 2200.0, True)
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no SPICE number; write such as 4.7k, 10u, 1meg, 2.5e-3.')
    mantissa, exponent, suffix, _ = match.groups()
    suffix = (suffix or "").lower()
    if suffix == "mil":
        return float(f"{mantissa}e{exponent or 0}") * 25.4e-6
    return float(f"{mantissa}e{int(exponent or 0) + _SUFFIXES.get(suffix, 0)}")


def write_netlist(netlist: Netlist, *, analyses: tuple[str, ...] = (".op",)) -> str:
    """The text of a netlist."""
    title = " ".join(netlist.title.split()) or "circuit"
    lines = [title]
    if netlist.remark:
        # Short lines: some readers cut off after a hundred or so characters, even in comments.
        lines += [MARK + netlist.remark[i : i + 100] for i in range(0, len(netlist.remark), 100)]
    lines += [_card_text(card) for card in netlist.cards]
    for model in netlist.models:
        values = " ".join(f"{key}={number_text(value)}" for key, value in model.parameters.items())
        lines.append(f".model {model.name} D({values})")
    if netlist.options:
        lines.append(".options " + " ".join(f"{key}={number_text(value)}" for key, value in netlist.options.items()))
    return "\n".join([*lines, *analyses, ".end"]) + "\n"


def _card_text(card: Card) -> str:
    ends = " ".join(card.nodes)
    kind = card.name[0].lower()
    if kind == "d":
        return f"{card.name} {ends} {card.model}"
    if kind == "f":
        assert card.value is not None
        return f"{card.name} {ends} {card.model} {number_text(card.value)}"
    if card.value is None:
        return f"{card.name} {ends} external"
    return f"{card.name} {ends} {number_text(card.value)}"


def read_netlist(text: str) -> Netlist:
    """Parse a netlist.

    Read are R, D, V, I, E, F and C cards with plain values, `.model` of diodes with `is` and `n`, `.options` (`gmin`,
    `temp`, `tnom`; others do not change the circuit); `.op`, `.print`, `.plot`, `.save`, `.tran`, `.ic` and `.end` are
    passed over.

    Args:
        text: The netlist; its first line is the title.

    Raises:
        NetlistError: for anything else, naming the line.
    """
    lines = text.splitlines()
    cards: dict[str, Card] = {}
    models: dict[str, Model] = {}
    options: dict[str, float] = {}
    for line, words in _statements(lines):
        head = words[0].lower()
        if head == ".end":
            break
        if head == ".model":
            model = _model(line, words)
            models[model.name] = model
        elif head in (".options", ".option"):
            options |= _options(line, words)
        elif head in (".op", ".print", ".plot", ".save", ".tran", ".ic"):
            continue
        elif head.startswith("."):
            raise NetlistError(
                f"Line {line}: `{words[0]}` is not supported; give a flat netlist of R, D, V, I, E, F, C."
            )
        else:
            card = _card(line, words)
            if card.name.lower() in cards:
                raise NetlistError(
                    f"Line {line}: the name `{card.name}` is taken by line {cards[card.name.lower()].line}."
                )
            cards[card.name.lower()] = card
    _check_models(cards, models)
    remark = "".join(line[len(MARK) :] for line in lines if line.startswith(MARK))
    return Netlist(lines[0] if lines else "", tuple(cards.values()), tuple(models.values()), options, remark)


def _statements(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Statements with the number of their first line; comments dropped, continuation lines joined."""
    pending: tuple[int, str] | None = None
    for number, raw in enumerate(lines[1:], start=2):
        line = re.split(r";|\s\$\s|\s//", raw, maxsplit=1)[0].strip()
        if not line or line.startswith("*"):
            continue
        if line.startswith("+"):
            if pending is None:
                raise NetlistError(f"Line {number}: a continuation line (`+`) continues nothing.")
            pending = (pending[0], pending[1] + " " + line[1:])
            continue
        if pending is not None:
            yield pending[0], _words(pending[1])
        pending = (number, line)
    if pending is not None:
        yield pending[0], _words(pending[1])


def _words(statement: str) -> list[str]:
    return re.sub(r"[(),]", " ", re.sub(r"\s*=\s*", "=", statement)).split()


def _card(line: int, words: list[str]) -> Card:
    name = words[0]
    count = _NODES.get(name[0].lower())
    if count is None:
        raise NetlistError(
            f"Line {line}: element `{name}` is not supported. Supported are R, D, V, I, C and the pair E, F of a "
            "bidirectional amplifier."
        )
    nodes = tuple("0" if word.lower() in ("0", "gnd") else word.lower() for word in words[1 : 1 + count])
    rest = words[1 + count :]
    if len(nodes) < count or not rest:
        raise NetlistError(f"Line {line}: `{' '.join(words)}` is too short; `{name}` needs {count} nodes and a value.")
    model = None
    kind = name[0].lower()
    if kind == "d":
        model, rest = rest[0].lower(), rest[1:]
        if rest:
            raise NetlistError(
                f"Line {line}: `{' '.join(rest)}` after the model of `{name}` is not supported (area, ic, temp)."
            )
        return Card(name, nodes, None, model, line)
    if kind == "f":
        model, rest = rest[0].lower(), rest[1:]
    if kind in "vi" and rest[:1] and rest[0].lower() == "dc":
        rest = rest[1:]
    if len(rest) != 1:
        raise NetlistError(
            f"Line {line}: `{name}` needs one value; got `{' '.join(rest)}` (waveforms and extra parameters are not "
            "supported)."
        )
    return Card(name, nodes, _value(line, name, rest[0]), model, line)


def _value(line: int, name: str, text: str) -> float:
    try:
        value = parse_number(text)
    except ValueError as error:
        raise NetlistError(f"Line {line}: value of `{name}`: {error}") from None
    if not math.isfinite(value):
        raise NetlistError(f"Line {line}: the value of `{name}` is {text}; it must be finite.")
    if name[0].lower() == "r" and value == 0:
        raise NetlistError(f"Line {line}: the resistance of `{name}` is zero; use one node for both ends instead.")
    return value


def _assignments(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        pairs[key.lower()] = value if equals else ""
    return pairs


def _model(line: int, words: list[str]) -> Model:
    if len(words) < 3 or words[2].lower() != "d":
        raise NetlistError(f"Line {line}: only `.model NAME D(...)` is supported; got `{' '.join(words)}`.")
    parameters = {}
    for key, text in _assignments(words[3:]).items():
        value = _value(line, key, text)
        if key in ("is", "n"):
            parameters[key] = value
        elif key not in ("level", "tnom", "cjo", "cj0", "tt") and value != 0:
            raise NetlistError(f"Line {line}: diode parameter `{key}` is not supported; `is` and `n` are.")
        elif key in ("level",) and value != 1:
            raise NetlistError(f"Line {line}: diode level {value:g} is not supported; use the junction diode, level 1.")
    return Model(words[1].lower(), parameters, line)


def _options(line: int, words: list[str]) -> dict[str, float]:
    found = {}
    for key, text in _assignments(words[1:]).items():
        if key in ("gmin", "temp", "tnom"):
            found[key] = _value(line, key, text)
    return found


def _check_models(cards: dict[str, Card], models: dict[str, Model]) -> None:
    for card in cards.values():
        if card.name[0].lower() == "d" and card.model not in models:
            raise NetlistError(f"Line {card.line}: the model `{card.model}` of diode `{card.name}` is not defined.")
