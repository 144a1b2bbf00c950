"""Bring a data set to this machine from a public mirror: checked, and written whole or not at all."""

import contextlib
import http.client
import io
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from eqprop.train.data.fetch_series import fetch_series
from eqprop.train.data.idx import read_idx
from eqprop.train.data.sets import File, KnownSet, data_folder, known
from eqprop.train.data.ts import SERIES

__all__ = ["fetch"]

_CHUNK = 1 << 18
# The largest known file has 26 MB as gzip; a mirror that sends far more sends something else.
_LARGEST = 200_000_000


def fetch(
    name: str,
    folder: str | Path | None = None,
    *,
    mirrors: Sequence[str] | None = None,
    timeout: float = 30.0,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Path:
    """Download the files of a known set that are not there yet.

    Each file is written under a temporary name, checked against its checksum, flushed to disk and only then
    given its name, so that an interruption leaves either the right file or none.

    Args:
        name: A known set that has files: "mnist", "fashion-mnist"; or time series, "italy-power" say, which pip
            brings inside the package aeon.
        folder: Where to put them; by default a folder of the set's name in `$EQPROP_DATA` or the user's
            data folder, where `load` finds it.
        mirrors: Addresses of folders that hold the files as gzip, tried in order; by default the known ones.
        timeout: Patience with a silent mirror. [s]
        progress: Called with a file's name, bytes so far and bytes in all (None if the mirror does not say).

    Returns:
        The folder that now holds the set.

    Raises:
        ValueError: if the set is unknown or has no files to fetch.
        ConnectionError: if no mirror gave a file with the right content; the message says what each did.
        OSError: if the folder cannot be written to, or the disk is full.
    """
    if name in SERIES:
        return fetch_series(name, folder)
    entry = known(name)
    if not entry.files:
        raise ValueError(f"There is nothing to fetch for {name!r}: {entry.bring}.")
    folder = data_folder() / name if folder is None else Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in entry.files:
            if not _present(file, folder):
                _fetch_file(entry, file, folder, entry.mirrors if mirrors is None else mirrors, timeout, progress)
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"Cannot write {name!r} to `{folder}`: {error.strerror or error}. Free space there, or name another "
            "folder by the environment variable EQPROP_DATA",
        ) from error
    return folder


def _present(file: File, folder: Path) -> bool:
    path = file.inside(folder)
    if path is None:
        return False
    try:
        read_idx(path, sha256=file.sha256)
    except ValueError:
        return False
    return True


def _fetch_file(entry: KnownSet, file: File, folder: Path, mirrors: Sequence[str], timeout: float, progress) -> None:
    """One file, from the first mirror that gives it right."""
    failures = []
    for mirror in mirrors:
        address = f"{mirror.rstrip('/')}/{file.name}.gz"
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=folder)
        try:
            with os.fdopen(handle, "wb") as target:
                failure = _download(address, target, timeout, file.name, progress)
                target.flush()
                os.fsync(target.fileno())
            if failure is None:
                failure = _wrong_content(Path(temporary), file)
            if failure is None:
                _give_name(Path(temporary), file, folder)
                return
            failures.append(f"{address}: {failure}")
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    raise ConnectionError(
        f"No mirror gave `{file.name}` of {entry.name!r}: {'; '.join(failures) or 'none is known'}. Check the "
        f"network and the proxy settings (http_proxy, https_proxy), or bring the set another way: {entry.bring}."
    )


def _download(address: str, target: io.BufferedIOBase, timeout: float, name: str, progress) -> str | None:
    """Copy an address to a file; what went wrong with the network, in words, or None. Disk errors are raised."""
    try:
        response = urllib.request.urlopen(address, timeout=timeout)  # the mirrors are https, http or the user's own
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answered {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", error))
    with response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        done = 0
        while True:
            try:
                piece = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                return f"the connection broke after {done} bytes ({error})"
            if not piece:
                break
            target.write(piece)
            done += len(piece)
            if done > _LARGEST:
                return f"it sends more than {_LARGEST} bytes"
            if progress is not None:
                progress(name, done, total)
    return f"it sent {done} of {total} bytes" if total is not None and done < total else None


def _wrong_content(path: Path, file: File) -> str | None:
    """What is wrong with a downloaded file, in words, or None."""
    try:
        read_idx(path, sha256=file.sha256)
    except ValueError as error:
        return str(error).replace(f"`{path}`", "what it sent").removesuffix(" Delete it and bring it again.")
    return None


def _give_name(temporary: Path, file: File, folder: Path) -> None:
    """Put a checked file in its place, and the change of the folder on disk."""
    os.chmod(temporary, 0o644)  # temporary files are made for their owner alone
    os.replace(temporary, folder / f"{file.name}.gz")
    # A damaged plain file of this name would be found first.
    (folder / file.name).unlink(missing_ok=True)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
