"""Recording a session with a bench, and replaying it without one.

A recording is a text file, one JSON object a line, written as the session goes: what was asked, what was answered.
Numbers are written so that they read back to the last bit, so a replayed training ends in the same parameters.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from eqprop.bridges.bench import Bench, Capabilities
from eqprop.bridges.errors import BenchError

__all__ = ["Recorder", "Replay"]


class Recorder:
    """A bench whose session is written to a file.

    Args:
        bench: The bench.
        path: The recording; an existing file is not overwritten.

    Raises:
        ValueError: if the file exists.
    """

    def __init__(self, bench: Bench, path: str | Path):
        if Path(path).exists():
            raise ValueError(f"`{path}` exists; recordings are not overwritten. Choose another path.")
        self._bench = bench
        self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 (it stays open for the session)
        able = dataclasses.asdict(bench.capabilities)
        self._write({"capabilities": {**able, "parameter_limits": dict(able["parameter_limits"])}})

    @property
    def capabilities(self) -> Capabilities:
        """Those of the bench."""
        return self._bench.capabilities

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Pass on and record."""
        self._bench.set_parameters(parameters)
        self._write({"set": {name: np.asarray(value).tolist() for name, value in parameters.items()}})

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """Pass on and record; failures are recorded too."""
        asked = {"inputs": inputs.tolist(), "nudge": None if nudge is None else nudge.tolist()}
        try:
            readings = np.asarray(self._bench.apply(inputs, nudge), float)
        except (BenchError, TimeoutError, ConnectionError) as error:
            self._write({**asked, "failed": str(error)})
            raise
        self._write({**asked, "readings": readings.tolist()})
        return readings

    def close(self) -> None:
        """Close bench and file."""
        self._bench.close()
        self._file.close()

    def _write(self, entry):
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


class Replay:
    """A recorded session as a bench: it answers what was answered, if it is asked what was asked.

    Args:
        path: The recording.

    Raises:
        ValueError: if the file is no recording.
    """

    def __init__(self, path: str | Path):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        try:
            entries = [json.loads(line) for line in lines]
            able = entries[0]["capabilities"]
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"`{path}` is not a recording of a bench ({error}).") from error
        pairs = {name: tuple(able[name]) for name in ("input_limits", "nudge_limits")}
        limits = {name: tuple(value) for name, value in able["parameter_limits"].items()}
        self.capabilities = Capabilities(**{**able, **pairs, "parameter_limits": limits})
        self._entries = entries
        self._next = 1

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Compare with the recording.

        Raises:
            BenchError: if something else was done at this point of the session.
        """
        entry = self._take("set")
        for name, value in parameters.items():
            if name not in entry or not np.array_equal(entry[name], value):
                raise BenchError(
                    f"Step {self._next - 1} of the recording set another `{name}`; this is not the recorded session."
                )

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """The recorded readings.

        Raises:
            BenchError: if something else was asked at this point of the session, or the phase had failed.
        """
        asked = {"inputs": inputs.tolist(), "nudge": None if nudge is None else nudge.tolist()}
        entry = self._take("inputs", whole=True)
        for name, value in asked.items():
            if entry[name] != value:
                raise BenchError(
                    f"Step {self._next - 1} of the recording had other {name}; this is not the recorded session."
                )
        if "failed" in entry:
            raise BenchError(entry["failed"])
        return np.array(entry["readings"])

    def close(self) -> None:
        """Nothing is left open."""

    def _take(self, kind, *, whole=False):
        if self._next >= len(self._entries):
            raise BenchError(f"The recording ends after {len(self._entries) - 1} steps.")
        entry = self._entries[self._next]
        self._next += 1
        if kind not in entry:
            raise BenchError(
                f"Step {self._next - 1} of the recording was a different command; this is not the recorded session."
            )
        return entry if whole else entry[kind]
