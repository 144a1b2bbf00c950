"""Checkpoints: trees of arrays in one safetensors file, written whole or not at all.

Arrays are stored under plain names (`weights.0`), so that any safetensors reader finds them; a JSON header says
what else the file holds. A complex array is stored with a last axis of two, real and imaginary.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

__all__ = ["CheckpointError", "fill", "leaf_name", "named_arrays", "read", "write", "write_bytes"]

VERSION = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or used for this system."""


def leaf_name(path: tuple) -> str:
    """A plain name for a place in a tree: `weights.0`."""
    return ".".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)


def named_arrays(tree: PyTree, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a tree by name; keys of random generators as their raw numbers."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array | np.ndarray):
            named[prefix + leaf_name(path)] = np.asarray(_raw(leaf))
    return named


def fill(tree: PyTree, arrays: Mapping[str, np.ndarray], prefix: str = "", *, cast: bool = False) -> PyTree:
    """The tree with its arrays replaced by those stored under their names.

    Args:
        tree: Says which arrays are wanted, and their shapes and types.
        arrays: By name.
        prefix: Before each name.
        cast: Whether arrays of another precision are converted, instead of refused.

    Raises:
        CheckpointError: if one is missing, or has another shape or type.
    """

    def stored(path, leaf):
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        name = prefix + leaf_name(path)
        if name not in arrays:
            raise CheckpointError(f"The checkpoint holds no `{name}`; it belongs to another system or optimiser.")
        value, wanted = arrays[name], _raw(leaf)
        if cast and np.can_cast(value.dtype, wanted.dtype, "same_kind"):
            value = value.astype(wanted.dtype)
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise CheckpointError(
                f"`{name}` is {value.dtype}{list(value.shape)} in the checkpoint but "
                f"{wanted.dtype}{list(wanted.shape)} "
                "here. Load it with the configuration and precision it was trained with."
            )
        if _is_key(leaf):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(stored, tree)


def write(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping) -> None:
    """Write arrays and header, in one step from the old file to the new.

    Args:
        path: Where; an old file there stays as it is until the new one is safe on the disk.
        arrays: By name.
        header: JSON-serialisable.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written; the old file is intact.
    """
    complex_names = sorted(name for name, array in arrays.items() if np.iscomplexobj(array))
    plain = {
        name: np.ascontiguousarray(_as_real(array)).reshape(_as_real(array).shape) for name, array in arrays.items()
    }
    # One key only: safetensors does not keep the order of several, and equal states must be equal bytes.
    metadata = {"eqprop": json.dumps({"version": VERSION, "complex": complex_names, **header}, sort_keys=True)}
    write_bytes(path, safetensors.numpy.save(plain, metadata=metadata))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content at once: a temporary name, flushed to the disk, renamed.

    Raises:
        CheckpointError: if that fails; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        cause = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
        kept = "The file written before is intact." if path.exists() else "Nothing was written."
        raise CheckpointError(
            f"Cannot write {path}: {cause}. {kept} Make room or choose another folder with `--out`, then continue "
            "with `eqprop train --resume`."
        ) from error


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the header of a checkpoint.

    Raises:
        CheckpointError: if there is no such file, or it is damaged or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("eqprop", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint {path}.") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}). Restore it from a copy, or delete it and train anew."
        ) from error
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is of checkpoint version {header.get('version')}, this release reads version {VERSION}. "
            "Use the release that wrote it (see `versions` in config.toml)."
        )
    for name in header["complex"]:
        arrays[name] = arrays[name][..., 0] + 1j * arrays[name][..., 1]
    return arrays, header


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_real(array):
    return np.stack([array.real, array.imag], axis=-1) if np.iscomplexobj(array) else np.asarray(array)
