"""What a data set is: inputs and class numbers for training and for testing, checked once, here."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32

__all__ = ["Dataset"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification task in memory, on the host.

    Its arrays are NumPy's: whoever trains decides on which device, and in which order, they go.

    Args:
        train_inputs: One example per row, each of shape `shape`; pixels in [0, 1] for the known sets.
        train_targets: Class numbers from 0.
        test_inputs: As `train_inputs`, never trained on.
        test_targets: As `train_targets`.
        classes: Number of classes.
        shape: Shape of one example's inputs, (28, 28) for MNIST.

    Raises:
        ValueError: where lengths or shapes differ, a set is empty, an input is NaN or infinite, or a class
            number is out of range. The message names the field and the first example at fault.
    """

    train_inputs: Float32[np.ndarray, "train *input"]
    train_targets: Int32[np.ndarray, " train_target"]
    test_inputs: Float32[np.ndarray, "test *test_input"]
    test_targets: Int32[np.ndarray, " test_target"]
    classes: int
    shape: tuple[int, ...]

    def __post_init__(self):
        if self.classes < 2:
            raise ValueError(f"`classes` is {self.classes}; a classification task has at least two.")
        for part in ("train", "test"):
            _check_part(part, getattr(self, f"{part}_inputs"), getattr(self, f"{part}_targets"), self)


def _check_part(part: str, inputs: np.ndarray, targets: np.ndarray, dataset: Dataset) -> None:
    """Raise ValueError for what cannot be trained or tested on."""
    if len(inputs) == 0:
        raise ValueError(f"`{part}_inputs` is empty; give at least one example.")
    if inputs.shape[1:] != tuple(dataset.shape):
        raise ValueError(
            f"Examples of `{part}_inputs` have shape {inputs.shape[1:]}, not the data set's {tuple(dataset.shape)}; "
            "train and test inputs must have one shape."
        )
    if len(inputs) != len(targets):
        raise ValueError(
            f"`{part}_inputs` has {len(inputs)} examples but `{part}_targets` has {len(targets)} labels; "
            "each example needs one label."
        )
    # A sum is NaN or infinite wherever one element is, and needs no array of the inputs' size.
    if not np.isfinite(inputs.sum(dtype=np.float64)):
        first = int(np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1))[0])
        raise ValueError(
            f"`{part}_inputs` holds NaN or infinity, first in example {first}; remove such examples or fill the gaps."
        )
    wrong = np.flatnonzero((targets < 0) | (targets >= dataset.classes))
    if len(wrong):
        raise ValueError(
            f"`{part}_targets[{wrong[0]}]` is {targets[wrong[0]]}; class numbers run from 0 to "
            f"{dataset.classes - 1}, since the data set has {dataset.classes} classes. Renumber the labels."
        )
