"""Data sets by name or by path."""

import zipfile
from pathlib import Path

import numpy as np

from eqprop.train.data.cifar import load_cifar
from eqprop.train.data.dataset import Dataset
from eqprop.train.data.idx import read_idx
from eqprop.train.data.sets import KnownSet, find, known, missing
from eqprop.train.data.split import stratified_split
from eqprop.train.data.ts import SERIES, find_series, load_series, missing_series

__all__ = ["load"]

_HELD_OUT = {"digits": 360, "iris": 30}
"""Test examples of the sets that come without a split: a fifth."""
_LENGTHS = {"japanese-vowels": 25}
"""Sets whose series differ in length, and what they are brought to."""
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load(name: str | Path) -> Dataset:
    """A data set, from disk.

    * `"digits"`: the 1,797 digits of 8 x 8 pixels of scikit-learn, pixels divided by 16; a fifth of each
      class (360 examples) is held out for testing, always the same (seed 0).
    * `"iris"`: 150 flowers by four lengths in centimetres, as scikit-learn has them; 10 of each of the three kinds are
      held out for testing, always the same (seed 0).
    * `"mnist"`, `"fashion-mnist"`: 60,000 and 10,000 pictures of 28 x 28 pixels, divided by 255, as their
      authors split them. Looked for in the places that `eqprop.train.data.sets` lists; every file is
      checked against its checksum.
    * `"cifar10"`: 50,000 and 10,000 pictures of 32 x 32 pixels in three colours, divided by 255, from the binary or
      Python batches in the user's own folder.
    * `"italy-power"`, `"gunpoint"` and the other names of `eqprop.train.data.ts.SERIES`: time series,
      [sample, channel], as the UCR and UEA archives split them.
    * A path that ends in `_TRAIN.ts`, with its `_TEST.ts` beside it: a set of your own in that format.
    * A path that ends in `.npz`: arrays `x_train`, `y_train`, `x_test`, `y_test` with one example per row.
      Whole-number inputs of 8 bits are divided by 255, others are taken as they are. The labels are
      integers from 0; there are as many classes as the largest training label says, or as an integer
      `classes` in the file says.

    Args:
        name: Name or path.

    Returns:
        The data set, inputs in float32.

    Raises:
        ValueError: if there is no such set, or if a file or its content is not what it should be.
        FileNotFoundError: if the set's files are not on this machine; the message says what brings them.
    """
    if str(name).endswith(".npz"):
        return _load_npz(Path(name))
    if str(name) == "cifar10":
        return load_cifar()
    if str(name).endswith("_TRAIN.ts"):
        return load_series(Path(name).parent, Path(name).name.removesuffix("_TRAIN.ts"))
    if str(name) in SERIES:
        folder = find_series(str(name))
        if folder is None:
            raise missing_series(str(name))
        return load_series(folder, SERIES[str(name)], length=_LENGTHS.get(str(name)))
    entry = known(str(name))
    return _load_idx(entry) if entry.files else _load_packaged(entry)


def _load_packaged(entry: KnownSet) -> Dataset:
    """A set that comes with scikit-learn."""
    from sklearn import datasets  # late: it takes a second to import

    if entry.name == "digits":
        pixels, labels = datasets.load_digits(return_X_y=True)
        rows = pixels / 16
    else:
        rows, labels = datasets.load_iris(return_X_y=True)
    inputs = rows.astype(np.float32).reshape(-1, *entry.shape)
    train, test = stratified_split(labels, _HELD_OUT[entry.name], seed=0)
    labels = labels.astype(np.int32)
    return Dataset(inputs[train], labels[train], inputs[test], labels[test], classes=entry.classes, shape=entry.shape)


def _load_idx(entry: KnownSet) -> Dataset:
    folder = find(entry.name)
    if folder is None:
        raise missing(entry)
    arrays = []
    for file in entry.files:
        path = file.inside(folder)
        if path is None:
            raise missing(entry)
        arrays.append(read_idx(path, sha256=file.sha256))
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(
        train_inputs=_scaled(train_images),
        train_targets=train_labels.astype(np.int32),
        test_inputs=_scaled(test_images),
        test_targets=test_labels.astype(np.int32),
        classes=entry.classes,
        shape=entry.shape,
    )


def _load_npz(path: Path) -> Dataset:
    arrays = _read_npz(path)
    for name in _ARRAYS:
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"`{path}` has no array `{name}`; it needs {', '.join(_ARRAYS)} and holds {held}.")
    try:
        labels = {name: _class_numbers(name, arrays[name]) for name in ("y_train", "y_test")}
        inputs = {name: _numbers(name, arrays[name]) for name in ("x_train", "x_test")}
        declared = arrays.get("classes")
        if declared is not None and (declared.ndim != 0 or declared.dtype.kind not in "iu"):
            raise ValueError(f"`classes` must be one integer; got {declared.dtype}{list(declared.shape)}.")
        classes = int(labels["y_train"].max(initial=0)) + 1 if declared is None else int(declared)
        return Dataset(
            train_inputs=inputs["x_train"],
            train_targets=labels["y_train"],
            test_inputs=inputs["x_test"],
            test_targets=labels["y_test"],
            classes=classes,
            shape=inputs["x_train"].shape[1:],
        )
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; pickled objects are refused, since to open them is to run their code."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No file `{path.absolute()}`; check the data set's path.") from error
    except (ValueError, EOFError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        example = ", ".join(f"{name}=..." for name in _ARRAYS)
        raise ValueError(
            f"`{path}` cannot be read as .npz ({error}). Write it with `numpy.savez(path, {example})`, numbers only."
        ) from error


def _class_numbers(name: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` is {labels.dtype}{list(labels.shape)}; it must hold one integer class number per example."
        )
    if len(labels) and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise ValueError(f"`{name}` runs from {labels.min()} to {labels.max()}; class numbers start at 0.")
    return labels.astype(np.int32)


def _numbers(name: str, inputs: np.ndarray) -> np.ndarray:
    if inputs.ndim < 2 or inputs.dtype.kind not in "iufb":
        raise ValueError(
            f"`{name}` is {inputs.dtype}{list(inputs.shape)}; it must hold real numbers, one example per row."
        )
    return _scaled(inputs) if inputs.dtype == np.uint8 else inputs.astype(np.float32)


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Bytes to [0, 1], divided in float32 so that no copy of eight bytes per pixel is made."""
    return pixels.astype(np.float32) / np.float32(255)
