"""CIFAR-10's two formats, on files written here, and what is wrong with files."""

import pickle

import numpy as np
import pytest

from eqprop.train.data import load
from eqprop.train.data.cifar import load_cifar, read_binary, read_pickle

NAMES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]


def pictures(count=4, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 3072), np.uint8), draw.integers(0, 10, count)


def write_binary(path, data, labels):
    path.write_bytes(np.concatenate([labels[:, None].astype(np.uint8), data], axis=1).tobytes())


def write_pickle(path, data, labels, protocol=2):
    path.write_bytes(pickle.dumps({b"data": data, b"labels": [int(n) for n in labels]}, protocol))


def test_a_picture_is_row_column_colour(tmp_path):
    data, labels = pictures()
    write_binary(tmp_path / "b.bin", data, labels)
    images, numbers = read_binary(tmp_path / "b.bin")
    # The red of row 1, column 2 is the 34th byte of a picture; green follows 1,024 later.
    np.testing.assert_array_equal(images[:, 1, 2, 0], data[:, 34])
    np.testing.assert_array_equal(images[:, 1, 2, 1], data[:, 34 + 1024])
    np.testing.assert_array_equal(numbers, labels)


@pytest.mark.parametrize("protocol", [2, 4])
def test_both_formats_hold_the_same(tmp_path, protocol):
    data, labels = pictures()
    write_binary(tmp_path / "b.bin", data, labels)
    write_pickle(tmp_path / "b", data, labels, protocol)
    for ours, theirs in zip(read_pickle(tmp_path / "b"), read_binary(tmp_path / "b.bin"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["bin", "py"])
def test_six_batches_are_a_data_set(tmp_path, monkeypatch, kind):
    folder = tmp_path / f"cifar-10-batches-{kind}"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        write, path = (write_binary, folder / f"{name}.bin") if kind == "bin" else (write_pickle, folder / name)
        write(path, *pictures(seed=seed))
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    found = load("cifar10")
    assert found.train_inputs.shape == (20, 32, 32, 3)
    assert found.test_inputs.shape == (4, 32, 32, 3)
    assert found.classes == 10
    np.testing.assert_array_equal(found.train_targets[4:8], pictures(seed=1)[1])
    assert found.train_inputs.dtype == np.float32
    np.testing.assert_allclose(found.test_inputs[0, 0, 0], pictures(seed=5)[0][0, [0, 1024, 2048]] / 255, rtol=1e-6)


class Opens:
    """Asks the reader to run something."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Opens()), "it asks for `builtins.print`, which no CIFAR-10 batch needs; not opened"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8)})[:-40], "is damaged or no CIFAR-10 batch"),
        (b"", "is damaged or no CIFAR-10 batch"),
        (pickle.dumps([1, 2]), "holds a list, not a dictionary"),
        (
            pickle.dumps({"data": np.zeros((2, 3000), np.uint8)}),
            r"must be uint8\[pictures, 3072\]; got uint8\[2, 3000\]",
        ),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "has 2 pictures but 1 labels"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [11]}), "class numbers outside 0 to 9"),
    ],
)
def test_pickles_that_are_no_batch_are_told_and_not_run(tmp_path, capsys, content, message):
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pickle(tmp_path / "b")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "message"), [(3073 * 2 - 5, "is truncated or no CIFAR-10 batch.* has 6141 bytes"), (0, "has 0 bytes")]
)
def test_truncated_binaries_are_told(tmp_path, size, message):
    (tmp_path / "b.bin").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=message):
        read_binary(tmp_path / "b.bin")


def test_missing_files_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"'cifar10' is not on this machine\. Unpack its binary or Python archive"
    ):
        load("cifar10")
    write_binary(tmp_path / "test_batch.bin", *pictures())
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_1\.bin"):
        load_cifar(tmp_path)
