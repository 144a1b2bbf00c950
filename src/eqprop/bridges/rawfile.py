"""Binary raw files, in which ngspice (and most SPICEs after it) leaves its results at full precision."""

import dataclasses
from pathlib import Path

import numpy as np

__all__ = ["Plot", "read_rawfile"]


@dataclasses.dataclass(frozen=True)
class Plot:
    """The result of one analysis.

    Args:
        title: Title line of the netlist.
        name: Which analysis: "Operating Point", "Transient Analysis".
        vectors: Name in lower case, `v(n3)` or `i(v1)` or `time`, to its values, float64 (or complex128).
    """

    title: str
    name: str
    vectors: dict[str, np.ndarray]


def read_rawfile(path: str | Path) -> list[Plot]:
    """Read all plots of a binary raw file.

    Args:
        path: The file.

    Returns:
        One `Plot` per analysis, in order.

    Raises:
        ValueError: if it is not a binary raw file, or is cut short.
    """
    data = Path(path).read_bytes()
    plots = []
    position = 0
    while position < len(data):
        plot, position = _read_plot(data, position, str(path))
        plots.append(plot)
    return plots


def _read_plot(data, position, path):
    marker = data.find(b"Binary:\n", position)
    if marker < 0:
        raise ValueError(f"`{path}` is not a binary raw file; let ngspice write one: `set filetype=binary`.")
    header = data[position:marker].decode(errors="replace").splitlines()
    fields = {}
    names = []
    for line in header:
        if line.startswith(("\t", " ")):
            names.append(line.split()[1].lower())
        else:
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    try:
        count, points = int(fields["no. variables"]), int(fields["no. points"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"The header of `{path}` has no counts of variables and points; is it a raw file?") from error
    if len(names) != count:
        raise ValueError(f"The header of `{path}` announces {count} variables and names {len(names)}.")
    dtype = np.dtype("<c16" if "complex" in fields.get("flags", "") else "<f8")
    begin = marker + len(b"Binary:\n")
    end = begin + count * points * dtype.itemsize
    if end > len(data):
        raise ValueError(
            f"`{path}` is cut short: {count} variables of {points} points need {end - len(data)} bytes more."
        )
    table = np.frombuffer(data[begin:end], dtype).reshape(points, count)
    vectors = {name: table[:, column].copy() for column, name in enumerate(names)}
    return Plot(fields.get("title", ""), fields.get("plotname", ""), vectors), end
