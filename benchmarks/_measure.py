"""What benchmarks share: options, times, the machine's limit, angles between gradients, memory, a file of figures."""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np


def options(description):
    """A parser of the command line, with the folder that figures are written to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="folder for JSON and pictures (%(default)s)"
    )
    return parser


def save(result, out, name):
    """Write figures, and what they were measured on, to `name.json` in the folder."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.json"
    file.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {file}")


def machine():
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "backend": jax.default_backend(),
        "jax": jax.__version__,
    }


def seconds(run, repeats):
    """Best time of a few calls, the first (which compiles) left out. [s]"""
    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - began)
    return best


def medians(runs, repeats):
    """Median times of several calls, interleaved so that a noisy machine is noisy for all of them. [s]"""
    for run in runs:
        jax.block_until_ready(run())
    times = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(run())
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def product_rate(repeats, dtype=jnp.float32):
    """Rate of a large matrix product, the limit of the machine. [GFLOP/s]"""
    matrix = jnp.ones((1024, 1024), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * 1024**3 / seconds(lambda: product(matrix), repeats) / 1e9


def flat(tree):
    """All numbers of a gradient in a row."""
    return np.asarray(jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0], np.float64)


def cosine(a, b):
    """Cosine of the angle between two gradients."""
    a, b = flat(a), flat(b)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def memory(step, *arguments):
    """Temporary memory of a compiled function. [MB]"""
    return jax.jit(step).lower(*arguments).compile().memory_analysis().temp_size_in_bytes / 1e6
