import gzip
import re
import struct

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqprop.train.data.idx import read_idx

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(array):
    """The format, written from its description and independent of the reader."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


arrays = st.sampled_from(sorted(CODES)).flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(array=arrays, compressed=st.booleans())
def test_reads_back_what_was_written(tmp_path_factory, array, compressed):
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx_bytes(array)) if compressed else idx_bytes(array))
    back = read_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, array)


@given(data=st.data(), compressed=st.booleans())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, data, compressed):
    whole = idx_bytes(np.arange(60, dtype=np.int32).reshape(3, 4, 5))
    whole = gzip.compress(whole) if compressed else whole
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"file` is (truncated|damaged|not an IDX file).*Delete it and bring it again"):
        read_idx(path)


@given(noise=st.binary(max_size=64))
def test_any_bytes_are_read_or_refused_with_the_files_name(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("idx") / "noise"
    path.write_bytes(noise)
    try:
        array = read_idx(path)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{array.nbytes} bytes were read"
        assert array.nbytes < len(noise)
    assert re.search("noise` is |were read", message)


GOOD = idx_bytes(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not an IDX file: .* found nothing"),
        (b"\x89PNG" + GOOD, r"is not an IDX file: it must begin with two zero bytes and a type .* found 0x89504e47"),
        (b"\0\0\x0a\x01" + GOOD[4:], r"is not .* a type \(0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e\); found 0x00000a01"),
        (GOOD[:9], r"is truncated: a header of 2 dimensions takes 12 bytes, found 9"),
        (GOOD[:-1], r"is truncated: its header promises uint8\[2, 3\], 6 bytes after the header, found 5"),
        (GOOD + b"\0", r"is too long: its header promises uint8\[2, 3\], 6 bytes after the header, found more"),
        (b"\0\0\x0e\x02" + b"\xff" * 8, r"is truncated: its header promises float64\[4294967295, 4294967295\]"),
        (gzip.compress(GOOD)[:-9], "is damaged: it does not decompress"),
        (gzip.compress(GOOD)[:-8] + b"\1" * 8, "is damaged: it does not decompress"),
        (gzip.compress(GOOD + b"\0"), "is too long"),
    ],
    ids=["empty", "png", "type", "header", "short", "long", "huge", "cut", "crc", "gzip-long"],
)
def test_bad_files_are_named_with_what_was_found_and_the_remedy(tmp_path, content, message):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad` " + message) as caught:
        read_idx(path)
    assert str(caught.value).endswith("Delete it and bring it again.")


def test_a_wrong_checksum_shows_both(tmp_path):
    path = tmp_path / "other"
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"other` is not the file it should be: .* has SHA-256 \w{64}, expected 00ff"):
        read_idx(path, sha256="00ff")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_idx(tmp_path)
