import numpy as np
import pytest

from eqprop.bridges.batch import run_batch
from eqprop.bridges.errors import BackendUnavailable, NetlistError, OperatingPointError
from eqprop.bridges.libngspice import SharedNgspice
from eqprop.bridges.rawfile import read_rawfile

CIRCUIT = "t\nV1 in 0 1\nR1 in out 1k\nD1 out 0 dm\n.model dm d(is=1e-12)\n.end"


def test_both_routes_give_the_same_numbers():
    (plot,) = run_batch(CIRCUIT.replace(".end", ".op\n.end"))
    with SharedNgspice(CIRCUIT) as simulator:
        simulator.operating_point()
        assert plot.vectors["v(out)"][0] == simulator.voltages(["out"])[0]
        assert plot.vectors["i(v1)"][0] == simulator.read("v1#branch")[0]
    assert plot.name == "Operating Point"


def test_several_analyses_give_several_plots():
    plots = run_batch("t\nV1 a 0 1\nR1 a b 1k\nC1 b 0 1n\n.op\n.tran 10n 1u uic\n.end")
    assert [p.name for p in plots] == ["Operating Point", "Transient Analysis"]
    assert plots[1].vectors["time"][-1] == pytest.approx(1e-6)
    assert plots[1].vectors["v(b)"].shape == plots[1].vectors["time"].shape


@pytest.mark.parametrize(
    ("cards", "kind", "message"),
    [
        ("V1 1 0 1\nR1 1 2 1k\nR2 2 0 1k\nR3 3 4 1k", OperatingPointError, "singular at node 3"),
        ("V1 1 0 1\nV2 1 0 2\nR1 1 0 1k", OperatingPointError, "loop of voltage sources"),
        ("V1 1 0 1\nR1 1 0 nan", NetlistError, "(?s)does not accept.*r1 1 0 nan"),
    ],
)
def test_what_ngspice_cannot_solve_is_an_error(cards, kind, message):
    with pytest.raises(kind, match=message):
        run_batch(f"t\n{cards}\n.op\n.end")


def test_a_missing_program_and_a_run_without_end():
    with pytest.raises(BackendUnavailable, match="apt install ngspice"):
        run_batch(CIRCUIT, program="no-such-simulator")
    with pytest.raises(OperatingPointError, match=r"did not finish within 0.2 s"):
        run_batch("t\nV1 a 0 1\nR1 a b 1k\nC1 b 0 1n\n.tran 1p 1 uic\n.end", timeout=0.2)


def _raw(names, points, data, flags="real"):
    head = f"Title: t\nPlotname: p\nFlags: {flags}\nNo. Variables: {len(names)}\nNo. Points: {points}\nVariables:\n"
    head += "".join(f"\t{k}\t{name}\tvoltage\n" for k, name in enumerate(names))
    return (head + "Binary:\n").encode() + data


def test_raw_files_real_complex_and_in_a_row(tmp_path):
    real, phasors = np.arange(6.0).reshape(3, 2), np.array([[1 + 2j], [3 - 4j]])
    path = tmp_path / "two.raw"
    path.write_bytes(_raw(["time", "V(A)"], 3, real.tobytes()) + _raw(["v(a)"], 2, phasors.tobytes(), "complex"))
    one, two = read_rawfile(path)
    assert one.vectors["v(a)"].tolist() == [1.0, 3.0, 5.0]
    assert two.vectors["v(a)"].tolist() == [1 + 2j, 3 - 4j]


def test_damaged_raw_files_are_refused(tmp_path):
    path = tmp_path / "bad.raw"
    path.write_bytes(_raw(["a"], 4, np.zeros(3).tobytes()))
    with pytest.raises(ValueError, match="cut short: 1 variables of 4 points need 8 bytes more"):
        read_rawfile(path)
    path.write_bytes(b"Title: t\nValues:\n 0 1.0\n")
    with pytest.raises(ValueError, match="not a binary raw file"):
        read_rawfile(path)
    path.write_bytes(b"Title: t\nBinary:\n")
    with pytest.raises(ValueError, match="no counts"):
        read_rawfile(path)
