import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqprop.train.data import stratified_split


@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=80), data=st.data())
def test_a_split_is_a_partition_that_keeps_shares(labels, data):
    labels = np.array(labels)
    held_out = data.draw(st.integers(1, len(labels) - 1))
    kept, held = stratified_split(labels, held_out, seed=3)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(held) == held_out
    share = np.bincount(labels, minlength=5) * held_out / len(labels)
    assert np.all(np.abs(np.bincount(labels[held], minlength=5) - share) < 1)


def test_a_seed_names_one_split():
    labels = np.arange(100) % 10
    _, first = stratified_split(labels, 20, seed=0)
    _, again = stratified_split(labels, 20, seed=0)
    _, other = stratified_split(labels, 20, seed=1)
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize("held_out", [0, 10, -1])
def test_both_sides_need_an_example(held_out):
    with pytest.raises(ValueError, match=f"`held_out` is {held_out} of 10 examples; hold out at least one"):
        stratified_split(np.arange(10), held_out)
