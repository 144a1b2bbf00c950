import numpy as np
import pytest

from eqprop.bridges.spice import from_spice
from eqprop.cli import main
from eqprop.train.config import load_config
from eqprop.train.run import continue_run, load, new_run

NETLIST = """divider with a diode
V1 in 0 5
R1 in a 1k
D1 a b dm
R2 b 0 2.2k
.model dm d(is=1e-12 n=1.5)
.end
"""


CIRCUIT = """from eqprop.substrates.circuit.netlist import Circuit
circuit = Circuit()
x = circuit.inputs('x', 2)
y = circuit.nodes('y', 1)
circuit.resistors('R', x, y, resistance='1k')
circuit.outputs(y)
number = 3
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
    path.write_text(CIRCUIT)
    assert main(["spice", "compare", f"{path}:circuit", "--inputs", "1,3"]) == 0
    assert "y0" in capsys.readouterr().out
    assert main(["spice", "compare", f"{path}:circuit", "--inputs", "1"]) == 1
    assert "gives 1 numbers; this circuit has 2 inputs" in capsys.readouterr().err
    assert main(["spice", "compare", f"{path}:number"]) == 1
    assert "is a int; point at a Circuit" in capsys.readouterr().err


def test_a_trained_run_is_exported_and_compared(tmp_path, capsys):
    settings = ["data.name=digits", "data.train_examples=4", "data.test_examples=2", "recipe.hidden=[3]", "epochs=1"]
    folder = new_run(load_config("drn-xs", [*settings, "precision=float64"]), tmp_path)
    continue_run(folder)
    path = tmp_path / "trained.cir"
    assert main(["spice", "export", str(folder), "--out", str(path)]) == 0
    assert f"spice compare {path}" in capsys.readouterr().out
    again, trained = from_spice(path.read_text()).compile(), load(folder).system
    assert np.array_equal(again.elements["W2"].conductance.value, trained.conductances[1])
    assert main(["spice", "compare", str(folder), "--tolerance", "0.01"]) == 0
    assert main(["spice", "export", str(folder), "--out", str(tmp_path / "no" / "such.cir")]) == 1
    assert "Choose another with `--out`" in capsys.readouterr().err
    mine = tmp_path / "mine.py"
    mine.write_text(CIRCUIT)
    assert main(["spice", "export", f"{mine}:circuit", "--inputs", "1,3"]) == 0
    assert "VX".lower() in capsys.readouterr().out.lower()


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
