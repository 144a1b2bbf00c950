"""Reading `.ts` files: what is read, what is refused and how."""

import numpy as np
import pytest

from eqprop.train.data.load import load
from eqprop.train.data.ts import SERIES, find_series, load_series, missing_series, read_ts

HEADER = "# a comment\n@problemName Tiny\n@timeStamps false\n@univariate true\n@classLabel true up down\n@data\n"


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_channels_samples_and_classes(tmp_path):
    series = read_ts(write(tmp_path, "a.ts", HEADER + "1,2,3:4,5,6:down\n0.5,0,1e-1:1,1,1:up\n"))
    assert series.values.shape == (2, 3, 2)
    np.testing.assert_array_equal(series.values[0], [[1, 4], [2, 5], [3, 6]])
    assert series.labels == ("down", "up")
    assert series.classes == ("up", "down")


def test_a_set_by_path_and_by_name(tmp_path, monkeypatch):
    for part in ("TRAIN", "TEST"):
        write(tmp_path, f"GunPoint_{part}.ts", HEADER + "1,2:up\n3,4:down\n")
    data = load(str(tmp_path / "GunPoint_TRAIN.ts"))
    assert data.shape == (2, 1)
    np.testing.assert_array_equal(data.train_targets, [0, 1])
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    assert find_series("gunpoint") == tmp_path / "."
    np.testing.assert_array_equal(load("gunpoint").test_inputs[:, :, 0], [[1, 2], [3, 4]])


def test_series_of_different_lengths_are_brought_to_one_only_on_request(tmp_path):
    path = write(tmp_path, "a.ts", HEADER + "0,1,2:up\n0,2:down\n")
    with pytest.raises(ValueError, match="different lengths, 2 to 3 samples"):
        read_ts(path)
    np.testing.assert_allclose(read_ts(path, length=5).values[:, :, 0], [[0, 0.5, 1, 1.5, 2]] * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,?,3:up\n", "series with gaps .value 1 is '.'"),
        (HEADER + "1,NaN,3:up\n", "series with gaps"),
        (HEADER + "1,,3:up\n", "series with gaps"),
        (HEADER + "1,x,3:up\n", "line 7: could not convert"),
        (HEADER + "1,2:sideways\n", "class 'sideways' is none of"),
        (HEADER + "1,2:3,4:up\n1,2:down\n", "1 channels, where the first example has 2"),
        (HEADER, "no `.ts` file"),
        ("hello\n", "expected a header line"),
        (HEADER.replace("@classLabel true up down", "@classLabel false") + "1,2:up\n", "names no classes"),
        (HEADER.replace("@timeStamps false", "@timeStamps true") + "(0,1):up\n", "resample it to even steps"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ts(write(tmp_path, "a.ts", text))


def test_missing_files_and_sets_say_what_brings_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="check the folder"):
        load_series(tmp_path, "Nothing")
    assert all("eqprop data fetch" in str(missing_series(name)) for name in SERIES)
    write(tmp_path, "A_TRAIN.ts", HEADER + "1,2:up\n")
    write(tmp_path, "A_TEST.ts", HEADER.replace("up down", "up left") + "1,2:up\n")
    with pytest.raises(ValueError, match="they must agree"):
        load_series(tmp_path, "A")
