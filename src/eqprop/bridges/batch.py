"""ngspice as a program: `ngspice -b -r`, one process a run, results through a binary raw file."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from eqprop.bridges.errors import BackendUnavailable, NetlistError, OperatingPointError
from eqprop.bridges.libngspice import check_messages
from eqprop.bridges.rawfile import Plot, read_rawfile

__all__ = ["run_batch"]


def run_batch(netlist: str, *, timeout: float = 120.0, program: str = "ngspice") -> list[Plot]:
    r"""Run a netlist with its own analysis lines (`.op`, `.tran ...`) in a process of its own.

    Args:
        netlist: The whole netlist, title line first. Every voltage and current must have a value: there are no
            external sources in a batch.
        timeout: Longest run. [s]
        program: Name or path of the executable.

    Returns:
        One plot per analysis.

    Raises:
        BackendUnavailable: if the program is not installed.
        NetlistError: if ngspice does not accept the netlist.
        OperatingPointError: if an analysis fails, or the circuit is floating or singular, or time runs out.

    Example:
        >>> plots = run_batch("divider\nV1 1 0 1\nR1 1 2 1k\nR2 2 0 3k\n.op\n.end")
        >>> float(plots[0].vectors["v(2)"][0])
        0.75
    """
    executable = shutil.which(program)
    if executable is None:
        raise BackendUnavailable(
            f"The program `{program}` was not found. Install it: `apt install ngspice` (Debian, Ubuntu), "
            "`dnf install ngspice` (Fedora), `brew install ngspice` (macOS)."
        )
    with tempfile.TemporaryDirectory() as folder:
        circuit, raw = Path(folder) / "circuit.cir", Path(folder) / "circuit.raw"
        circuit.write_text(netlist if netlist.endswith("\n") else netlist + "\n")
        command = [executable, "-b", "-n", "-r", str(raw), str(circuit)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
        except subprocess.TimeoutExpired as error:
            raise OperatingPointError(
                f"ngspice did not finish within {timeout} s and was stopped. Raise `timeout`, or simplify the circuit."
            ) from error
        said = (done.stdout + "\n" + done.stderr).replace(str(folder), "")
        _check_accepted(said)
        check_messages(said.splitlines())
        if done.returncode != 0 or not raw.exists():
            raise OperatingPointError(
                f"ngspice ended with code {done.returncode} and left no result. It says:\n{said[-2000:]}"
            )
        return read_rawfile(raw)


def _check_accepted(said: str) -> None:
    for phrase in ("Error on line", "can't find model", "circuit not parsed", "unknown parameter"):
        if phrase in said:
            raise NetlistError(f"ngspice does not accept the netlist. It says:\n{said[-2000:]}")
