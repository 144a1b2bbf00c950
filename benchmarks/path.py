"""What a Newton step for a path costs: block elimination against a dense solve of the same second derivative.

    python benchmarks/path.py

Prints a table, and writes `path.json` to `benchmarks/results`: processor seconds of one factorisation and solve,
medians of repeats taken in turns, compilation apart, for a path of N steps in d = 3 coordinates between fixed ends; and
the largest difference of the two solutions.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _measure import options, save
from jaxtyping import Array, Float

from eqprop.settle.base import settle
from eqprop.settle.path import PathNewton, block_factor, block_hessian, block_solve
from eqprop.substrates.trajectory import FixedEnds, Lagrangian, Path

jax.config.update("jax_enable_x64", True)
STEPS = (200,)


class Oscillators(Lagrangian):
    """Coupled, hardening oscillators."""

    spring: Float[Array, "mass mass"]
    dimension: int = eqx.field(static=True, default=3)

    def __call__(self, position, velocity, time, drive):
        elastic = 0.5 * position @ self.spring @ position + 0.05 * jnp.sum(position**4)
        return 0.5 * jnp.sum(velocity**2) - elastic


def measure(steps, repeats=15):
    """Median seconds of both solves and the difference of their solutions."""
    spring = jnp.array([[1.0, 0.2, 0.0], [0.2, 1.7, -0.1], [0.0, -0.1, 2.5]])
    path = Path(Oscillators(spring), FixedEnds([0.6, -0.4, 0.3], [-0.5, 0.2, 0.7]), steps=steps, duration=4.0)
    state = settle(path, None, PathNewton()).state
    blocks = block_hessian(lambda q: jax.grad(path.energy)(q, None), state, path.closed)
    matrix = jax.hessian(path.energy)(state, None).reshape(state.size, state.size)
    right = jnp.asarray(np.random.default_rng(0).normal(size=state.shape))
    solves = {
        "block": (jax.jit(lambda b, r: block_solve(block_factor(b), r[..., None])[..., 0].ravel()), blocks),
        "dense": (jax.jit(lambda m, r: jnp.linalg.solve(m, r.ravel())), matrix),
    }
    solutions = {name: solve(first, right) for name, (solve, first) in solves.items()}
    taken = {name: [] for name in solves}
    for _ in range(repeats):
        for name, (solve, first) in solves.items():
            began = time.process_time()
            jax.block_until_ready(solve(first, right))
            taken[name].append(time.process_time() - began)
    seconds = {name: float(np.median(each)) for name, each in taken.items()}
    difference = float(jnp.max(jnp.abs(solutions["block"] - solutions["dense"])))
    return {**seconds, "times faster": seconds["dense"] / seconds["block"], "largest difference": difference}


def main():
    """Measure, print, write."""
    arguments = options(__doc__).parse_args()
    rows = {}
    for steps in STEPS:
        row = rows[str(steps)] = measure(steps)
        print(
            f"N = {steps:4d}: block {1e3 * row['block']:.2f} ms, dense {1e3 * row['dense']:.2f} ms,"
            f" {row['times faster']:.1f} times faster, difference {row['largest difference']:.1e}"
        )
    save({"steps": rows}, arguments.out, "path")


if __name__ == "__main__":
    main()
