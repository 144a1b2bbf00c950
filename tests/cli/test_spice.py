import pytest

from eqprop.cli import main

NETLIST = """divider with a diode
V1 in 0 5
R1 in a 1k
D1 a b dm
R2 b 0 2.2k
.model dm d(is=1e-12 n=1.5)
.end
"""


def test_a_netlist_is_compared_with_ngspice(tmp_path, capsys):
    path = tmp_path / "divider.cir"
    path.write_text(NETLIST)
    assert main(["spice", "compare", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "3.6920078623822" in shown
    assert "within 1e-09 V" in shown
    assert main(["spice", "compare", str(path), "--tolerance", "0"]) == 1
    assert "NOT within" in capsys.readouterr().out


def test_a_circuit_in_a_python_file_is_compared(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from eqprop.substrates.circuit.netlist import Circuit\n"
        "circuit = Circuit()\n"
        "x = circuit.inputs('x', 2)\n"
        "y = circuit.nodes('y', 1)\n"
        "circuit.resistors('R', x, y, resistance='1k')\n"
        "circuit.outputs(y)\n"
        "number = 3\n"
    )
    assert main(["spice", "compare", f"{path}:circuit", "--inputs", "1,3"]) == 0
    assert "y0" in capsys.readouterr().out
    assert main(["spice", "compare", f"{path}:circuit", "--inputs", "1"]) == 1
    assert "gives 1 numbers; this circuit has 2 inputs" in capsys.readouterr().err
    assert main(["spice", "compare", f"{path}:number"]) == 1
    assert "is a int; point at a Circuit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NETLIST.replace("R2 b 0 2.2k", "Q1 a b 0 mod"), "Line 5: element `Q1` is not supported"),
        (NETLIST.replace("R2 b 0 2.2k", "R3 c d 1k"), "no conducting path"),
        ("t\nV1 in 0 1\n.end", "has no free node"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, capsys, text, message):
    path = tmp_path / "bad.cir"
    path.write_text(text)
    assert main(["spice", "compare", str(path)]) == 1
    assert message in capsys.readouterr().err
    assert main(["spice", "compare", str(tmp_path / "none.cir")]) == 1
