"""The CIFAR-10 format: batches of 10,000 pictures of 32 x 32 pixels in three colours, binary or pickled by Python.

Binary files (`data_batch_1.bin`, ...) hold a byte for the class and 3,072 for the pixels of each picture; Python's
(`data_batch_1`, ...) pickle a dictionary of an array `data` and a list `labels`. In both the pixels run colour by
colour, then row by row. Pickles are opened by a reader that knows NumPy's arrays and nothing else, since to open one is
otherwise to run its code.

Source:
    A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

import io
import os
import pickle
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from eqprop.train.data.dataset import Dataset

__all__ = ["load_cifar", "read_binary", "read_pickle"]

CLASSES = 10
SHAPE = (32, 32, 3)
_PICTURE = 32 * 32 * 3
_TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
_TEST = "test_batch"
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10", "cifar-10", ".")
_REMEDY = "Unpack the archive again."

Batch = tuple[UInt8[np.ndarray, "picture 32 32 3"], Int32[np.ndarray, " picture"]]


def load_cifar(folder: Path | None = None) -> Dataset:
    """CIFAR-10 from the user's own folder, pixels divided by 255.

    Args:
        folder: Where the six batches lie; by default the places where all sets are looked for.

    Raises:
        FileNotFoundError: if they are nowhere, or some are missing.
        ValueError: if a file is not what it should be.
    """
    if folder is None:
        from eqprop.train.data.sets import data_folder

        bases = [Path(os.environ["EQPROP_DATA"])] if os.environ.get("EQPROP_DATA") else []
        bases += [Path("data"), data_folder()]
        places = [base / inside for base in bases for inside in _FOLDERS]
    else:
        places = [folder]
    for place in places:
        for suffix, read in ((".bin", read_binary), ("", read_pickle)):
            if (place / f"{_TEST}{suffix}").is_file():
                return _assembled([place / f"{name}{suffix}" for name in (*_TRAIN, _TEST)], read)
    raise FileNotFoundError(
        "The data set 'cifar10' is not on this machine. Unpack its binary or Python archive (cifar-10-batches-bin or "
        f"cifar-10-batches-py) into one of: {', '.join(f'`{place}`' for place in places)}."
    )


def _assembled(paths, read) -> Dataset:
    lacking = [path.name for path in paths if not path.is_file()]
    if lacking:
        raise FileNotFoundError(f"`{paths[0].parent}` lacks {', '.join(lacking)}. {_REMEDY}")
    *train, test = (read(path) for path in paths)
    return Dataset(
        train_inputs=_scaled(np.concatenate([pictures for pictures, _ in train])),
        train_targets=np.concatenate([labels for _, labels in train]),
        test_inputs=_scaled(test[0]),
        test_targets=test[1],
        classes=CLASSES,
        shape=SHAPE,
    )


def read_binary(path: Path) -> Batch:
    """Pictures and class numbers of a binary batch.

    Raises:
        ValueError: if the file holds no whole number of pictures, or a class number above 9.
    """
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % (_PICTURE + 1):
        raise ValueError(
            f"`{path}` is truncated or no CIFAR-10 batch: it must hold {_PICTURE + 1} bytes for each picture, and has "
            f"{len(content)} bytes. {_REMEDY}"
        )
    rows = content.reshape(-1, _PICTURE + 1)
    return _pictures(rows[:, 1:]), _labels(path, rows[:, 0])


def read_pickle(path: Path) -> Batch:
    """Pictures and class numbers of a batch that Python pickled.

    Raises:
        ValueError: if the file is cut short, asks for anything but NumPy's arrays, or holds other arrays.
    """
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        MemoryError,
    ) as error:
        raise ValueError(f"`{path}` is damaged or no CIFAR-10 batch ({error}). {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"`{path}` holds a {type(content).__name__}, not a dictionary of `data` and `labels`. {_REMEDY}"
        )
    named = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    data, labels = named.get("data"), named.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PICTURE:
        found = f"{data.dtype}{list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"`data` of `{path}` must be uint8[pictures, {_PICTURE}]; got {found}. {_REMEDY}")
    if labels is None or len(labels) != len(data):
        count = "no" if labels is None else len(labels)
        raise ValueError(f"`{path}` has {len(data)} pictures but {count} labels. {_REMEDY}")
    return _pictures(data), _labels(path, np.asarray(labels))


class _ArraysOnly(pickle.Unpickler):
    """Opens what NumPy's arrays are pickled with, and refuses every other name."""

    def find_class(self, module, name):
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        raise pickle.UnpicklingError(f"it asks for `{module}.{name}`, which no CIFAR-10 batch needs; not opened")


def _empty_array(kind, shape, code):
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("it builds an array in a way that no CIFAR-10 batch needs; not opened")
    return np.ndarray(shape, np.int8)


def _encoded(text, encoding):
    # How Python 2's strings are written by Python 3 at low protocols.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}; not opened")
    return text.encode("latin1")


def _pictures(rows):
    """Colour by colour to (picture, row, column, colour)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(path, labels):
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(f"`{path}` has class numbers outside 0 to {CLASSES - 1}. {_REMEDY}")
    return labels.astype(np.int32)


def _scaled(pictures):
    return pictures.astype(np.float32) / np.float32(255)
