import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from eqprop.train import checkpoint
from eqprop.train.checkpoint import CheckpointError


@pytest.fixture
def tree(getkey):
    return {"weights": (jnp.arange(6.0).reshape(2, 3), jnp.array([1 + 2j])), "key": getkey(), "count": jnp.asarray(3)}


def test_what_is_written_is_read(tree, tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, checkpoint.named_arrays(tree), {"epoch": 4})
    arrays, header = checkpoint.read(path)
    again = checkpoint.fill(jax.tree.map(jnp.zeros_like, tree | {"key": None}) | {"key": jax.random.key(0)}, arrays)
    assert header["epoch"] == 4
    np.testing.assert_array_equal(again["weights"][0], tree["weights"][0])
    np.testing.assert_array_equal(again["weights"][1], tree["weights"][1])
    assert int(again["count"]) == 3
    np.testing.assert_array_equal(jax.random.uniform(again["key"], (3,)), jax.random.uniform(tree["key"], (3,)))


def test_any_safetensors_reader_finds_plain_names(tree, tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, checkpoint.named_arrays(tree), {})
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["weights.0"], np.arange(6.0).reshape(2, 3))


def test_equal_states_are_equal_bytes(tree, tmp_path):
    for name in ("a", "b"):
        checkpoint.write(tmp_path / name, checkpoint.named_arrays(tree), {"epoch": 1, "step": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_file_cut_short_is_called_that(tree, tmp_path, keep):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, checkpoint.named_arrays(tree), {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"is damaged or cut short .* Restore it from a copy, or delete it"):
        checkpoint.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*nothing"):
        checkpoint.read(tmp_path / "nothing")


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(1)}, metadata={"eqprop": '{"version": 99}'}))
    with pytest.raises(CheckpointError, match=r"version 99, this release reads version 1"):
        checkpoint.read(path)


def test_arrays_that_do_not_fit_are_refused(tree, tmp_path):
    arrays = checkpoint.named_arrays(tree)
    with pytest.raises(
        CheckpointError, match=r"`weights.0` is float64\[2, 3\] in the checkpoint but float64\[2, 2\] here"
    ):
        checkpoint.fill({"weights": (jnp.zeros((2, 2)),)}, arrays)
    with pytest.raises(CheckpointError, match=r"float64\[2, 3\] in the checkpoint but float32\[2, 3\] here"):
        checkpoint.fill({"weights": (jnp.zeros((2, 3), jnp.float32),)}, arrays)
    with pytest.raises(CheckpointError, match=r"holds no `biases`"):
        checkpoint.fill({"biases": jnp.zeros(2)}, arrays)
    converted = checkpoint.fill({"weights": (jnp.zeros((2, 3), jnp.float32),)}, arrays, cast=True)
    assert converted["weights"][0].dtype == jnp.float32


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_intact(tree, tmp_path, monkeypatch, failing):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, checkpoint.named_arrays(tree), {"epoch": 1})
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        really_open = open

        def open_full(file, mode="r", *rest, **options):
            handle = really_open(file, mode, *rest, **options)
            return _Full(handle, full) if "w" in mode else handle

        monkeypatch.setattr("builtins.open", open_full)
    with pytest.raises(CheckpointError, match=r"the disk is full. The file written before is intact. Make room"):
        checkpoint.write(path, checkpoint.named_arrays(tree), {"epoch": 2})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


class _Full:
    def __init__(self, handle, write):
        self.handle, self.write = handle, write

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.close()
