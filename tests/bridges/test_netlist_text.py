import math

import hypothesis
import pytest
from hypothesis import strategies as st

from eqprop.bridges.errors import NetlistError
from eqprop.bridges.netlist_text import Card, Model, Netlist, number_text, parse_number, read_netlist, write_netlist


@hypothesis.given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_the_text_bit_for_bit(value):
    assert math.copysign(1, parse_number(number_text(value))) == math.copysign(1, value)
    assert parse_number(number_text(value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_no_spice_reads_are_refused(value):
    with pytest.raises(ValueError, match="must be finite"):
        number_text(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.7k", 4700.0),
        ("4.7K", 4700.0),
        ("1meg", 1e6),
        ("1MEG", 1e6),
        ("1Megohm", 1e6),
        ("1m", 1e-3),
        ("1M", 1e-3),
        ("1mil", 25.4e-6),
        ("10u", 1e-5),
        ("3n", 3e-9),
        ("2p", 2e-12),
        ("7f", 7e-15),
        ("1g", 1e9),
        ("1T", 1e12),
        ("100nF", 1e-7),
        ("5V", 5.0),
        ("-.5", -0.5),
        ("1e-3k", 1.0),
        ("+2.E3", 2000.0),
    ],
)
def test_engineering_suffixes_give_the_nearest_float(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "k", "1..2", "--1", "1k2", "nan", "inf", "{r}"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="is no SPICE number"):
        parse_number(text)


def test_cards_comments_and_continuation_lines():
    netlist = read_netlist(
        "title, not a card: R9 1 2 3\n"
        "* a comment\n"
        "v1 IN 0 dc 5 ; five volts\n"
        "R1 in out\n"
        "* between\n"
        "+ 1k $ one kiloohm\n"
        "D1 out gnd Dmod\n"
        ".MODEL dmod d (is = 1f, n=2)\n"
        ".options reltol=1e-6 gmin=1p\n"
        ".op\n"
        ".end\n"
        "Q1 after the end\n"
    )
    assert [(c.name, c.nodes, c.value, c.line) for c in netlist.cards] == [
        ("v1", ("in", "0"), 5.0, 3),
        ("R1", ("in", "out"), 1000.0, 4),
        ("D1", ("out", "0"), None, 7),
    ]
    assert netlist.models[0] == Model("dmod", {"is": 1e-15, "n": 2.0}, 8)
    assert netlist.options == {"gmin": 1e-12}
    assert netlist.title.startswith("title")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Q1 a b c mod", "Line 3: element `Q1` is not supported"),
        ("L1 a b 1m", "Line 3: element `L1` is not supported"),
        (".subckt amp a b", r"Line 3: `.subckt` is not supported"),
        ("R1 a b", "Line 3: .* is too short"),
        ("R1 a b nan", 'Line 3: value of `R1`: "nan" is no SPICE number'),
        ("R1 a b 0", "Line 3: the resistance of `R1` is zero; use one node"),
        ("R1 a b 1e999", "Line 3: the value of `R1` is 1e999; it must be finite"),
        ("V1 a 0 pulse(0 1 1n)", "Line 3: .*waveforms"),
        ("D1 a b nomodel", "Line 3: the model `nomodel` of diode `D1` is not defined"),
        ("D1 a b dm 2", "Line 3: `2` after the model of `D1` is not supported"),
        ("R0 a b 1k", "Line 3: the name `R0` is taken by line 2"),
        (".model m npn(bf=100)", "Line 3: only `.model NAME D"),
        (".model m d(rs=10)", "Line 3: diode parameter `rs` is not supported"),
        (".model m d(level=3)", "Line 3: diode level 3 is not supported"),
    ],
)
def test_errors_name_the_line(line, message):
    with pytest.raises(NetlistError, match=message):
        read_netlist(f"title\nr0 a 0 1k\n{line}\n.end")


def test_a_continuation_of_nothing_is_an_error():
    with pytest.raises(NetlistError, match="Line 2: a continuation line"):
        read_netlist("title\n+ 1k\n")


def test_what_is_written_reads_back():
    cards = (
        Card("V1", ("in", "0"), -0.1),
        Card("Rload_0", ("in", "out"), 1 / 3),
        Card("D1", ("out", "0"), None, "dm"),
        Card("E1", ("s", "0", "out", "0"), 4.0),
        Card("Vs", ("s", "y"), 0.0),
        Card("F1", ("out", "0"), 0.25, "vs"),
    )
    netlist = Netlist("a title", cards, (Model("dm", {"is": 1e-6, "n": 1.0}),), {"gmin": 1e-12}, "x" * 250)
    again = read_netlist(write_netlist(netlist))
    assert [(c.name, c.nodes, c.value, c.model) for c in again.cards] == [
        (c.name, c.nodes, c.value, c.model) for c in cards
    ]
    assert (again.title, again.options, again.remark) == ("a title", {"gmin": 1e-12}, "x" * 250)
    assert all(len(line) < 120 for line in write_netlist(netlist).splitlines())
