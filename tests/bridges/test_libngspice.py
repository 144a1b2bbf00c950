import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from eqprop.bridges import libngspice
from eqprop.bridges.errors import BackendUnavailable, NetlistError, OperatingPointError
from eqprop.bridges.libngspice import SharedNgspice, check_messages

DIVIDER = "divider\nV1 in 0 external\nR1 in out 1k\nR2 out 0 1k\nI1 0 out external\n.end"


def test_sources_are_set_and_resistances_altered_in_place():
    with SharedNgspice(DIVIDER) as simulator:
        simulator.set_sources({"V1": 2.0, "I1": 0.0})
        simulator.operating_point()
        assert simulator.voltages(["0", "in", "out"]) == pytest.approx([0.0, 2.0, 1.0], abs=1e-12)
        assert simulator.read("v1#branch")[0] == pytest.approx(-1e-3, rel=1e-12)
        simulator.alter({"R2": 3000.0})
        simulator.operating_point()
        assert simulator.voltages(["out"]) == pytest.approx([1.5], abs=1e-12)
        simulator.set_sources({"I1": 1e-3})
        simulator.operating_point()
        # 750 ohm seen from the output.
        assert simulator.voltages(["out"]) == pytest.approx([2.25], abs=1e-12)


def test_altering_equals_reloading_to_the_last_digits():
    random = np.random.default_rng(0)
    values = 10 ** random.uniform(1, 6, 40)
    lines = [f"R{k} {'in' if k % 2 else 'out'} {'out' if k % 2 else 0} {{}}" for k in range(40)]

    def text(numbers):
        return "\n".join(
            ["t", "V1 in 0 1", *(s.format(repr(float(v))) for s, v in zip(lines, numbers, strict=True)), ".end"]
        )

    with SharedNgspice(text(np.full(40, 1e3))) as simulator:
        simulator.alter({f"R{k}": float(v) for k, v in enumerate(values)})
        simulator.operating_point()
        altered = simulator.voltages(["out"])
        simulator.load(text(values))
        simulator.operating_point()
        assert altered == pytest.approx(simulator.voltages(["out"]), rel=1e-14)


def test_diode_models_are_altered_in_place():
    circuit = "t\nI1 0 a 1m\nR1 a 0 1meg\nD1 a 0 dm\n.model dm d(is=1e-12)\n.options gmin=1e-15\n.end"
    with SharedNgspice(circuit) as simulator:
        simulator.operating_point()
        before = simulator.voltages(["a"])[0]
        simulator.alter_model("dm", "is", 1e-9)
        simulator.operating_point()
        # A thousand times the saturation current: ln(1000) thermal voltages less.
        assert before - simulator.voltages(["a"])[0] == pytest.approx(0.0258649 * np.log(1000), rel=1e-3)


def test_a_second_instance_of_a_process_is_refused_and_possible_after_closing():
    with SharedNgspice(DIVIDER), pytest.raises(BackendUnavailable, match="already has an ngspice instance open"):
        SharedNgspice(DIVIDER)
    with SharedNgspice(DIVIDER) as again:
        assert again.version >= 39
    with pytest.raises(BackendUnavailable, match="is closed"):
        again.operating_point()


def test_a_netlist_that_is_not_accepted_leaves_nothing_open():
    with pytest.raises(NetlistError, match=r"(?s)does not accept.*r1 in 0 nan"):
        SharedNgspice("t\nV1 in 0 1\nR1 in 0 nan\n.end")
    SharedNgspice(DIVIDER).close()


def test_what_cannot_be_set_or_read_is_named():
    with SharedNgspice(DIVIDER) as simulator:
        with pytest.raises(ValueError, match="External sources without a value: i1, v1"):
            simulator.operating_point()
        with pytest.raises(ValueError, match="could not change `R9`"):
            simulator.alter({"R9": 1.0})
        with pytest.raises(ValueError, match="value of `V1` is nan"):
            simulator.set_sources({"V1": float("nan")})
        simulator.set_sources({"V1": 1.0, "I1": 0.0})
        simulator.operating_point()
        with pytest.raises(ValueError, match=r"no vector `v\(nowhere\)`.*it has"):
            simulator.voltages(["nowhere"])


# What ngspice solves in silence, or gives up on: circuits without an operating point of their own.
BROKEN = {
    "island": ("V1 1 0 1\nR1 1 2 1k\nR2 2 0 1k\nR3 3 4 1k", "singular at node 3"),
    "fed island": ("V1 1 0 1\nR1 1 2 1k\nR2 2 0 1k\nR3 3 4 1k\nI1 0 3 1m", "singular at node 3"),
    "unequal parallel sources": ("V1 1 0 1\nV2 1 0 2\nR1 1 0 1k", "v1 closes a loop of voltage sources"),
    "cancelling conductances": ("V1 1 0 1\nR1 1 2 1k\nR2 2 0 -1k\nI1 0 2 1m", "singular at node 2"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_circuits_without_an_operating_point_are_refused(name):
    cards, message = BROKEN[name]
    with SharedNgspice(f"t\n{cards}\n.end") as simulator, pytest.raises(OperatingPointError, match=message):
        simulator.operating_point()


def test_a_completed_stepping_is_an_operating_point_and_a_failed_one_is_not():
    check_messages(["stderr Note: Starting dynamic gmin stepping", "stderr Note: Dynamic gmin stepping completed"])
    check_messages(["stderr Warning: singular matrix:  check node a", "stderr Note: Source stepping completed"])
    with pytest.raises(OperatingPointError, match="pseudo-transient"):
        check_messages(["stderr Warning: source stepping failed", "stderr Note: Transient op started"])
    with pytest.raises(OperatingPointError, match="aborted"):
        check_messages(["stderr op simulation(s) aborted"])


def test_a_transient_from_initial_voltages():
    with SharedNgspice("t\nV1 in 0 1\nR1 in a 1k\nC1 a 0 1n\n.ic v(a)=0\n.options reltol=1e-6\n.end") as simulator:
        simulator.transient(1e-8, 3e-6, max_step=1e-8)
        time, voltage = simulator.read("time"), simulator.read("v(a)")
    assert len(time) > 100
    # Bounded by the trapezoidal rule: (1e-8 / 1e-6)² / 12 = 8e-6, as a fraction of the slope.
    assert np.max(np.abs(voltage - (1 - np.exp(-time / 1e-6)))) < 1e-5


def test_a_missing_library_names_the_package(monkeypatch):
    monkeypatch.setattr(libngspice, "library_path", lambda: None)
    monkeypatch.setattr(libngspice, "_engine", libngspice._engine.__wrapped__)
    with pytest.raises(BackendUnavailable, match="apt install libngspice0"):
        SharedNgspice(DIVIDER)


def test_an_old_library_names_the_version_needed(monkeypatch):
    monkeypatch.setattr(libngspice, "_engine", libngspice._engine.__wrapped__)
    monkeypatch.setattr(libngspice, "_Engine", lambda path: SimpleNamespace(version=23, path=path))
    with pytest.raises(BackendUnavailable, match=r"of ngspice 23; version 26 or later is needed. Install it: `apt"):
        SharedNgspice(DIVIDER)


def test_messages_do_not_reach_the_standard_streams():
    code = (
        "from eqprop.bridges.libngspice import SharedNgspice\n"
        "with SharedNgspice('t\\nV1 1 0 1\\nR1 1 0 1k\\n.end') as s:\n"
        "    s.operating_point(); assert 'TEMP' in ' '.join(s.messages)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == done.stderr == ""
