"""ngspice as a shared library: operating points and transients without a process or a file between.

One process holds one simulator: the library keeps its circuit in global variables. Work in parallel with
processes, never threads. Readings are the simulator's own float64 numbers, never printed text.

ngspice *solves* floating and singular circuits: it adds conductances to ground, steps the sources, and at last runs a
pseudo-transient, whose end it reports as an ordinary operating point (0 V, or 5e8 V, on an island). Its messages
tell, so they are read after every run, and such a point is an error here.
"""

import ctypes as C
import ctypes.util
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

import numpy as np
from jaxtyping import Float

from eqprop.bridges.errors import BackendUnavailable, NetlistError, OperatingPointError

__all__ = ["SharedNgspice", "check_messages", "library_path"]

INSTALL = (
    "Install it: `apt install libngspice0 ngspice` (Debian, Ubuntu), `dnf install libngspice ngspice` (Fedora), "
    "`brew install libngspice ngspice` (macOS)."
)
OLDEST = 26
"""The first version whose sources can be set from outside (`ngSpice_Init_Sync`); 39 and later are tested."""
_NAMES = ("libngspice.so.0", "libngspice.so", "libngspice.0.dylib", "libngspice.dylib", "ngspice.dll")

_SendChar = C.CFUNCTYPE(C.c_int, C.c_char_p, C.c_int, C.c_void_p)
_ControlledExit = C.CFUNCTYPE(C.c_int, C.c_int, C.c_bool, C.c_bool, C.c_int, C.c_void_p)
_Source = C.CFUNCTYPE(C.c_int, C.POINTER(C.c_double), C.c_double, C.c_char_p, C.c_int, C.c_void_p)


class _VectorInfo(C.Structure):
    _fields_ = (
        ("name", C.c_char_p),
        ("type", C.c_int),
        ("flags", C.c_short),
        ("real", C.POINTER(C.c_double)),
        ("complex", C.c_void_p),
        ("length", C.c_int),
    )


def library_path() -> str | None:
    """Name of the first libngspice that loads, or None."""
    for name in (ctypes.util.find_library("ngspice"), *_NAMES):
        if name is None:
            continue
        try:
            C.CDLL(name)
        except OSError:
            continue
        return name
    return None


class _Engine:
    """The loaded library with its callbacks: one a process, never unloaded."""

    def __init__(self, path: str):
        self.messages: list[str] = []
        self.sources: dict[bytes, float] = {}
        self.missing: set[str] = set()
        self.dead = False
        self.owner: SharedNgspice | None = None
        self.library = C.CDLL(path)
        self.library.ngGet_Vec_Info.restype = C.POINTER(_VectorInfo)
        self.library.ngSpice_CurPlot.restype = C.c_char_p
        self.library.ngSpice_AllVecs.restype = C.POINTER(C.c_char_p)
        # ctypes does not keep callbacks alive; the library calls them for as long as the process lives.
        self._keep = (_SendChar(self._said), _ControlledExit(self._exited), _Source(self._source))
        said, exited, source = self._keep
        self.library.ngSpice_Init(said, None, exited, None, None, None, None)
        self.library.ngSpice_Init_Sync(source, source, None, C.byref(C.c_int(0)), None)
        found = re.search(r"ngspice-(\d+)", " ".join(self.messages))
        self.version = int(found[1]) if found else 0

    def _said(self, text, ident, user):
        self.messages.append(text.decode(errors="replace"))
        return 0

    def _exited(self, status, immediate, on_quit, ident, user):
        self.dead = True
        self.messages.append(f"stderr Error: ngspice asked to exit with status {status}")
        return 0

    def _source(self, value, time, name, ident, user):
        try:
            value[0] = self.sources[name]
        except KeyError:
            self.missing.add(name.decode())
            value[0] = 0.0
        return 0


@functools.cache
def _engine() -> _Engine:
    path = library_path()
    if path is None:
        raise BackendUnavailable(f"The shared library of ngspice was not found. {INSTALL}")
    engine = _Engine(path)
    # A build that does not say its version is taken at its word.
    if 0 < engine.version < OLDEST:
        raise BackendUnavailable(
            f"The shared library {path} is of ngspice {engine.version}; version {OLDEST} or later is needed. {INSTALL}"
        )
    return engine


class SharedNgspice:
    """The simulator of this process, with one circuit loaded.

    Sources declared `external` (`V3 3 0 external`) take their values from `set_sources` without reparsing; device
    values are altered in place with `alter`.

    Args:
        netlist: The whole netlist, title line first.

    Raises:
        BackendUnavailable: if the library is not installed, or another instance of this process is open.
        NetlistError: if ngspice does not accept the netlist.
    """

    def __init__(self, netlist: str):
        engine = _engine()
        if engine.owner is not None:
            raise BackendUnavailable(
                "This process already has an ngspice instance open, and the library holds only one circuit. "
                "`close()` the first one, or start another process."
            )
        if engine.dead:
            raise BackendUnavailable(
                "ngspice has quit after a fatal error earlier in this process; start a new process."
            )
        self._engine = engine
        engine.owner = self
        engine.sources = {}
        try:
            self.load(netlist)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """Major version of ngspice."""
        return self._engine.version

    @property
    def messages(self) -> tuple[str, ...]:
        """What ngspice said during the last call, each line with its stream's name in front."""
        return tuple(self._engine.messages)

    def load(self, netlist: str) -> None:
        """Replace the circuit. Source values set before are kept."""
        engine = self._open()
        if self._loaded:
            self._command("remcirc")
        lines = [line.encode() for line in netlist.splitlines()]
        engine.messages.clear()
        engine.library.ngSpice_Circ((C.c_char_p * (len(lines) + 1))(*lines, None))
        refused = [text for text in engine.messages if _REFUSED.search(text)]
        if refused or engine.dead:
            self._loaded = False
            said = "\n  ".join(engine.messages)
            raise NetlistError(f"ngspice does not accept the netlist. It says:\n  {said}")
        self._loaded = True

    def set_sources(self, values: Mapping[str, float]) -> None:
        """Set values of external sources, by element name. [V] or [A]"""
        for name, value in values.items():
            self._engine.sources[name.lower().encode()] = _finite(name, value)

    def alter(self, values: Mapping[str, float]) -> None:
        """Change the main value of elements in place: ohm for R, volt for V, ampere for I, farad for C, gain for E, F.

        Raises:
            ValueError: if a value is not finite, or an element does not exist.
        """
        for name, value in values.items():
            self._alter(f"alter {name}={_finite(name, value)!r}", name)

    def alter_model(self, model: str, parameter: str, value: float) -> None:
        """Change one parameter of a `.model` in place, say `is` of a diode."""
        self._alter(f"altermod {model} {parameter}={_finite(f'{model}.{parameter}', value)!r}", model)

    def operating_point(self) -> None:
        """Solve for the operating point; the readings are then there for `read`.

        Raises:
            OperatingPointError: if there is none, or the circuit is floating or singular.
        """
        self._command("destroy all")
        self._run("op")

    def transient(self, step: float, stop: float, *, max_step: float | None = None, from_initial: bool = True) -> None:
        """Integrate in time; `read` then gives vectors over the accepted times (`read("time")`).

        Args:
            step: Suggested time step. [s]
            stop: End. [s]
            max_step: Longest internal step. [s]
            from_initial: Whether to begin at the `.ic` voltages instead of an operating point.

        Raises:
            OperatingPointError: if the integration fails.
        """
        self._command("destroy all")
        longest = "" if max_step is None else f" 0 {float(max_step)!r}"
        self._run(f"tran {float(step)!r} {float(stop)!r}{longest}{' uic' if from_initial else ''}")

    def read(self, name: str) -> Float[np.ndarray, " point"]:
        """One vector of the last analysis: `v(n3)`, `v1#branch` (current into the + terminal), `time`, `@r1[i]`."""
        self._open()
        info = self._engine.library.ngGet_Vec_Info(name.encode())
        if not info or not info.contents.real or info.contents.length == 0:
            raise ValueError(
                f"ngspice has no vector `{name}` in its last analysis; it has: {', '.join(self.vectors())}."
            )
        return np.ctypeslib.as_array(info.contents.real, (info.contents.length,)).copy()

    def voltages(self, nodes: Sequence[str]) -> Float[np.ndarray, " node"]:
        """Operating-point voltages of nodes, by name; `0` is ground. [V]"""
        self._open()
        readings = np.empty(len(nodes))
        get = self._engine.library.ngGet_Vec_Info
        for place, node in enumerate(nodes):
            if node == "0":
                readings[place] = 0.0
                continue
            info = get(f"v({node})".encode())
            readings[place] = info.contents.real[0] if info and info.contents.real else self.read(f"v({node})")[0]
        return readings

    def vectors(self) -> list[str]:
        """Names of all vectors of the last analysis."""
        engine = self._open()
        names = engine.library.ngSpice_AllVecs(engine.library.ngSpice_CurPlot())
        found = []
        while names and names[len(found)] is not None:
            found.append(names[len(found)].decode())
        return found

    def close(self) -> None:
        """Give the simulator back, so that another instance can be opened."""
        engine = self._engine
        if engine.owner is not self:
            return
        if not engine.dead:
            self._command("destroy all")
            if self._loaded:
                self._command("remcirc")
        self._loaded = False
        engine.owner = None

    def __enter__(self) -> "SharedNgspice":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    _loaded = False

    def _open(self) -> _Engine:
        if self._engine.owner is not self:
            raise BackendUnavailable("This ngspice instance is closed; open a new one.")
        return self._engine

    def _command(self, text: str) -> None:
        engine = self._open()
        engine.messages.clear()
        engine.library.ngSpice_Command(text.encode())

    def _alter(self, command: str, name: str) -> None:
        self._command(command)
        if any("Error" in text or "no such" in text for text in self._engine.messages):
            raise ValueError(f"ngspice could not change `{name}`: {' '.join(self._engine.messages)}")

    def _run(self, command: str) -> None:
        self._engine.missing.clear()
        self._command(command)
        if self._engine.missing:
            names = ", ".join(sorted(self._engine.missing))
            raise ValueError(f"External sources without a value: {names}. Give them with `set_sources`.")
        check_messages(self._engine.messages)


_REFUSED = re.compile(r"(?i)\berror\b|can't find model|not parsed|unknown parameter")
_SINGULAR = re.compile(r"singular matrix:\s+check node (\S+)")


def check_messages(messages: Iterable[str]) -> None:
    """Raise unless an analysis ended at an operating point of the circuit as given.

    Stepping gmin or the sources is a sound homotopy where it *completes*: its last solution is of the circuit
    itself. A pseudo-transient or a failure is not, and a singular matrix that no completed stepping cured is not.

    Args:
        messages: Lines that ngspice wrote to its two streams.

    Raises:
        OperatingPointError: with the nodes ngspice complains of.
    """
    text = "\n".join(messages)
    nodes = list(dict.fromkeys(_SINGULAR.findall(text)))
    cured = re.search(r"stepping completed", text) is not None
    forced = "Transient op started" in text
    failed = re.search(r"(?i)aborted|\bError\b|DC solution failed|timestep too small|circuit not parsed", text)
    if (nodes and not cured) or forced or failed:
        raise OperatingPointError(_explain(nodes, forced, text))


def _explain(nodes: list[str], forced: bool, text: str) -> str:
    if any(node.endswith("#branch") for node in nodes):
        sources = ", ".join(node.removesuffix("#branch") for node in nodes)
        return f"ngspice found no operating point: the voltage source {sources} closes a loop of voltage sources."
    if nodes:
        return (
            f"The circuit is singular at node {', '.join(nodes)}: an island without a conducting path to ground, or "
            "conductances that cancel. ngspice returns voltages for it that mean nothing. Connect the node to "
            "ground or to a source through a positive conductance."
        )
    if forced:
        return "ngspice fell back on a pseudo-transient, whose end need not be an operating point; check the circuit."
    return f"ngspice failed. It says:\n  {text[-2000:]}"


def _finite(name: str, value: float) -> float:
    value = float(value)
    if not np.isfinite(value):
        raise ValueError(f"The value of `{name}` is {value}; it must be a finite number.")
    return value
