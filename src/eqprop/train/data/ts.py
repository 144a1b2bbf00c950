"""Time series in `.ts` files (the format of the UCR and UEA archives, as aeon and sktime write it).

A header of `@key value` lines, then `@data`, then one example a line: channels separated by colons, values by commas,
the class last. Lines that begin with `#` or `%` are comments. Series with gaps, of different lengths or with time
stamps of their own are refused: a run needs one value a sample.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from eqprop.train.data.dataset import Dataset

__all__ = ["SERIES", "Series", "find_series", "load_series", "missing_series", "read_ts"]

SERIES = {
    "italy-power": "ItalyPowerDemand",
    "gunpoint": "GunPoint",
    "arrowhead": "ArrowHead",
    "osuleaf": "OSULeaf",
    "basic-motions": "BasicMotions",
    "japanese-vowels": "JapaneseVowels",
    "acsf1": "ACSF1",
}
"""Known sets, by our name for them: what their files are called."""

_GAPS = {"?", "nan", ""}


@dataclasses.dataclass(frozen=True)
class Series:
    """The content of one file."""

    values: Float32[np.ndarray, "example sample channel"]
    labels: tuple[str, ...]
    """The class of each example, as it is written."""
    classes: tuple[str, ...]
    """The classes that the header names, in its order."""


def read_ts(path: str | Path, *, length: int | None = None) -> Series:
    """Read a `.ts` file.

    Args:
        path: The file.
        length: Bring series of different lengths to this one, by linear interpolation over their own duration. Without
            it they are refused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is no `.ts` file with class labels, series with gaps, and different lengths.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No file `{path}`; check the folder and the set's name.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` is no text, so no `.ts` file ({error.reason}).") from error
    header, rows = _split(path, text)
    classes = _classes(path, header)
    if header.get("timestamps", "false").lower() == "true":
        raise ValueError(f"`{path}` gives a time stamp with each value; resample it to even steps first.")
    examples, labels = [], []
    for number, row in rows:
        *channels, label = row.split(":")
        if not channels:
            raise ValueError(f"`{path}`, line {number}: an example is channels and a class, separated by colons.")
        if label.strip() not in classes:
            raise ValueError(
                f"`{path}`, line {number}: class {label.strip()!r} is none of the header's {list(classes)}."
            )
        labels.append(label.strip())
        examples.append([_channel(path, number, channel) for channel in channels])
    return Series(_stacked(path, rows, examples, length), tuple(labels), classes)


def load_series(folder: str | Path, name: str, *, length: int | None = None) -> Dataset:
    """The data set in `NAME_TRAIN.ts` and `NAME_TEST.ts` of a folder.

    Args:
        folder: Where the files lie.
        name: What they are called, "GunPoint" say.
        length: As in `read_ts`.

    Returns:
        Inputs [example, sample, channel]; classes numbered in the header's order.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: as `read_ts` does, and where the two files do not fit each other.
    """
    parts = [read_ts(Path(folder) / f"{name}_{part}.ts", length=length) for part in ("TRAIN", "TEST")]
    train, test = parts
    if train.classes != test.classes:
        raise ValueError(
            f"`{name}_TRAIN.ts` has classes {train.classes}, `{name}_TEST.ts` {test.classes}; they must agree."
        )
    numbers = {label: number for number, label in enumerate(train.classes)}
    targets = [np.array([numbers[label] for label in part.labels], np.int32) for part in parts]
    shape = train.values.shape[1:]
    return Dataset(train.values, targets[0], test.values, targets[1], classes=len(train.classes), shape=shape)


def find_series(name: str) -> Path | None:
    """The folder that holds a known set's two files, or None; looked for where `places` says."""
    title = SERIES[name]
    return next(
        (f for f in places(name) if all((f / f"{title}_{part}.ts").is_file() for part in ("TRAIN", "TEST"))), None
    )


def places(name: str) -> list[Path]:
    """`$EQPROP_DATA`, `./data`, the user's data folder; in each, folders of our name, the archive's, and itself."""
    base = os.environ.get("XDG_DATA_HOME")
    bases = [Path("data"), (Path(base) if base else Path.home() / ".local" / "share") / "eqprop"]
    if own := os.environ.get("EQPROP_DATA"):
        bases.insert(0, Path(own))
    return [folder / inside for folder in bases for inside in (name, SERIES[name], ".")]


def missing_series(name: str) -> FileNotFoundError:
    """The error for a set that is nowhere: where it was looked for, and what brings it."""
    folders = ", ".join(f"`{folder.absolute()}`" for folder in places(name))
    return FileNotFoundError(
        f"The series {name!r} ({SERIES[name]}_TRAIN.ts and _TEST.ts) are not on this machine. Bring them: `eqprop data "
        f"fetch {name}` takes them from the Python package aeon. Looked in {folders}."
    )


def _split(path, text):
    """Header as a dictionary of lower-case keys, and the numbered lines of the data."""
    header, rows, data = {}, [], False
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#%":
            continue
        if data:
            rows.append((number, line))
        elif line.startswith("@"):
            key, _, value = line[1:].partition(" ")
            header[key.lower()] = value.strip()
            data = key.lower() == "data"
        else:
            raise ValueError(f"`{path}`, line {number}: expected a header line `@key value`, found {line[:40]!r}.")
    if not data or not rows:
        raise ValueError(f"`{path}` holds no `@data`, or nothing after it; it is no `.ts` file.")
    return header, rows


def _classes(path, header):
    kind, *names = header.get("classlabel", "").split()
    if kind.lower() != "true" or len(names) < 2:
        raise ValueError(f"`{path}` names no classes (`@classLabel true A B ...`); only classification sets are read.")
    return tuple(names)


def _channel(path, number, text):
    values = [value.strip() for value in text.split(",")]
    gaps = [index for index, value in enumerate(values) if value.lower() in _GAPS]
    if gaps:
        raise ValueError(
            f"`{path}`, line {number}: series with gaps (value {gaps[0]} is {values[gaps[0]]!r}). Fill them, by "
            "interpolation say, or leave the example out."
        )
    try:
        return np.array([float(value) for value in values], np.float32)
    except ValueError as error:
        raise ValueError(f"`{path}`, line {number}: {error}.") from error


def _stacked(path, rows, examples, length):
    first = len(examples[0])
    for (number, _), channels in zip(rows, examples, strict=True):
        if len(channels) != first:
            raise ValueError(f"`{path}`, line {number}: {len(channels)} channels, where the first example has {first}.")
    lengths = {len(channel) for channels in examples for channel in channels}
    if len(lengths) > 1 and length is None:
        raise ValueError(
            f"`{path}` holds series of different lengths, {min(lengths)} to {max(lengths)} samples; read it with "
            "`length=...` to bring them to one."
        )
    if length is not None:
        examples = [[_resampled(channel, length) for channel in channels] for channels in examples]
    return np.stack([np.stack(channels, axis=-1) for channels in examples])


def _resampled(channel, length):
    there = np.linspace(0, len(channel) - 1, length)
    return np.interp(there, np.arange(len(channel)), channel).astype(np.float32)
