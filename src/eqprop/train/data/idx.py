"""The IDX format of MNIST: arrays as a short big-endian header and raw numbers, plain or in gzip.

Two zero bytes, a byte for the type, a byte for the number of dimensions, each dimension as an unsigned
32-bit number, then the elements, the last dimension running fastest.

Source:
    Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, 1998, "The IDX file format".
"""

import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

__all__ = ["read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 22
_REMEDY = "Delete it and bring it again."


def read_idx(path: Path, *, sha256: str | None = None) -> Shaped[np.ndarray, "..."]:
    """The array in an IDX file; whether it is compressed is seen from its first bytes, not from its name.

    Args:
        path: The file.
        sha256: Checksum of the uncompressed content; not checked if None.

    Returns:
        The array, in native byte order.

    Raises:
        ValueError: if the file is not IDX, is damaged, ends early, goes on after its end, or has another
            checksum. The message says what was expected, what was found and what to do.
        FileNotFoundError: if there is no such file.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file) if compressed else file
            dtype, shape, header = _read_header(path, stream)
            body = _read_body(path, stream, dtype, shape)
    except IsADirectoryError as error:
        raise ValueError(f"`{path}` is a folder, not an IDX file.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"`{path}` is damaged: it does not decompress ({error}). {_REMEDY}") from error
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(body)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"`{path}` is not the file it should be: its content has SHA-256 {digest.hexdigest()}, "
                f"expected {sha256}. {_REMEDY}"
            )
    array = np.frombuffer(body, dtype).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_header(path: Path, stream: io.BufferedIOBase) -> tuple[np.dtype, tuple[int, ...], bytes]:
    """Type, shape, and the header's own bytes."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        found = f"0x{magic.hex()}" if magic else "nothing"
        raise ValueError(
            f"`{path}` is not an IDX file: it must begin with two zero bytes and a type "
            f"({', '.join(f'0x{code:02x}' for code in _TYPES)}); found {found}. {_REMEDY}"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError(
            f"`{path}` is truncated: a header of {magic[3]} dimensions takes {4 + 4 * magic[3]} bytes, "
            f"found {4 + len(sizes)}. {_REMEDY}"
        )
    return np.dtype(_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes), magic + sizes


def _read_body(path: Path, stream: io.BufferedIOBase, dtype: np.dtype, shape: tuple[int, ...]) -> bytearray:
    """The elements' bytes: as many as the header promises, neither more nor fewer.

    Read in pieces, so that a header that promises too much is found out before memory is asked for.
    """
    expected = math.prod(shape) * dtype.itemsize
    body = bytearray()
    while len(body) <= expected and (piece := stream.read(min(_CHUNK, expected + 1 - len(body)))):
        body += piece
    promise = f"its header promises {dtype.name}{list(shape)}, {expected} bytes after the header"
    if len(body) < expected:
        raise ValueError(f"`{path}` is truncated: {promise}, found {len(body)}. {_REMEDY}")
    if len(body) > expected:
        raise ValueError(f"`{path}` is too long: {promise}, found more. {_REMEDY}")
    return body
