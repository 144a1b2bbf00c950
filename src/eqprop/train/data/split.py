"""Splits that keep the share of every class."""

import numpy as np
from jaxtyping import Int

__all__ = ["stratified_split"]


def stratified_split(
    labels: Int[np.ndarray, " example"], held_out: int, *, seed: int = 0
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held_out"]]:
    """Indices of the examples to train on and of `held_out` examples to test on.

    Each class gives its share of `held_out`, rounded so that the shares add up (largest remainders first).
    The same labels and seed give the same split on every machine and with every version of NumPy.

    Args:
        labels: Class number of each example.
        held_out: How many examples to hold out.
        seed: Which of the possible splits.

    Returns:
        Indices kept and indices held out, both ascending.

    Raises:
        ValueError: if `held_out` leaves nothing on one side.
    """
    if not 0 < held_out < len(labels):
        raise ValueError(
            f"`held_out` is {held_out} of {len(labels)} examples; hold out at least one and keep at least one."
        )
    # NumPy promises never to change this generator's stream; that of `default_rng` may change.
    random = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    share = counts * held_out / len(labels)
    taken = np.floor(share).astype(int)
    taken[np.argsort(taken - share, kind="stable")[: held_out - taken.sum()]] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, taken, strict=True)
    ]
    test = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), test), test
