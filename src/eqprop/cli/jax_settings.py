"""JAX as the command line wants it: threads, compilation cache, precision."""

import contextlib
import os
from pathlib import Path

__all__ = ["cache_folder", "set_precision", "set_up_jax"]


def set_up_jax(threads: int | None = None) -> None:
    """Before JAX is first imported: processors to use, and a compilation cache of the user's own.

    Args:
        threads: Number of processors; all by default.

    Raises:
        ValueError: if `threads` is not positive.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"`--threads` must be at least 1; got {threads}.")
        # XLA's pool has one thread for each processor it may run on.
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, available[:threads])
    import jax

    # Each processor is a device of its own, so that training may share a batch among them. Too late where JAX computes
    # already.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            jax.config.update("jax_compilation_cache_dir", str(folder))
        except OSError:
            # Without a cache everything works, only slower at the start.
            return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> Path:
    """Where compiled programs are kept. Not shared: what is in it gets executed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eqprop" / "jax"


def set_precision(precision: str) -> None:
    """Switch JAX to `float32` or `float64`; before any array is made."""
    import jax

    jax.config.update("jax_enable_x64", precision == "float64")
