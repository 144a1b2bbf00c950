"""Sweeps per second of block Gibbs sampling on a sparse graph beside thrml, and of Langevin beside a Python loop.

Both samplers get the same 1,000-spin graph (random, three edges a spin), temperature, and number of chains, and take
turns in one process; compilation is not counted. Prints a table, and writes `gibbs.json` to `benchmarks/results`.

    python benchmarks/gibbs.py [--chains 1 16 64] [--sweeps 2000] [--repeats 5]
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from _measure import options, save

import eqprop as ep

SPINS = 1000
NOTHING = jnp.zeros(0)


def graph(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random graph with three edges a spin, couplings, fields."""
    rng = np.random.default_rng(seed)
    edges = set()
    while len(edges) < 3 * SPINS:
        i, j = sorted(rng.integers(0, SPINS, 2).tolist())
        if i != j:
            edges.add((i, j))
    return np.asarray(sorted(edges)), rng.normal(size=3 * SPINS) / 2, rng.normal(size=SPINS) / 10


def ours(edges, couplings, field, chains, sweeps):
    """A function of a key that makes `sweeps` sweeps of each chain."""
    matrix = np.zeros((SPINS, SPINS), np.float32)
    matrix[tuple(edges.T)] = couplings
    model = ep.ising_from_couplings(matrix + matrix.T, field.astype(np.float32))
    solver = ep.Gibbs(1.0, chains=chains, burn_in=0, samples=1, thin=sweeps)

    @jax.jit
    def run(key):
        return solver.solve(model, NOTHING, model.initial_state(NOTHING), free=None, key=key).state

    return run, model


def thrmls(model, edges, couplings, field, chains, sweeps):
    """The same in thrml, with our colouring as its blocks."""
    from thrml import Block, SamplingSchedule, SpinNode, sample_states
    from thrml.models import IsingEBM, IsingSamplingProgram, hinton_init

    nodes = [SpinNode() for _ in range(SPINS)]
    pairs = [(nodes[i], nodes[j]) for i, j in edges]
    energy = IsingEBM(
        nodes, pairs, jnp.asarray(field, jnp.float32), jnp.asarray(couplings, jnp.float32), jnp.asarray(1.0)
    )
    colours = np.asarray(model.colours)
    blocks = [Block([nodes[k] for k in np.flatnonzero(colours == c)]) for c in range(max(model.colours) + 1)]
    program = IsingSamplingProgram(energy, blocks, clamped_blocks=[])
    schedule = SamplingSchedule(n_warmup=sweeps, n_samples=1, steps_per_sample=1)

    @jax.jit
    def run(key):
        def one(key):
            start_key, key = jax.random.split(key)
            start = hinton_init(start_key, energy, blocks, ())
            return sample_states(key, program, schedule, start, [], [Block(nodes)])[0]

        return jax.vmap(one)(jax.random.split(key, chains))

    return run


def seconds(run, key) -> float:
    """Wall time of one call. [s]"""
    began = time.perf_counter()
    jax.block_until_ready(run(key))
    return time.perf_counter() - began


def gibbs(chains: int, sweeps: int, repeats: int) -> dict[str, float]:
    """Chain-sweeps per second of both, by turns; the median of the ratios, and the mean energies for comparison."""
    edges, couplings, field = graph()
    mine, model = ours(edges, couplings, field, chains, sweeps)
    theirs = thrmls(model, edges, couplings, field, chains, sweeps)
    pairs = []
    for repeat in range(repeats + 1):
        key = jax.random.key(repeat)
        pairs.append((seconds(mine, key), seconds(theirs, key)))
    pairs = pairs[1:]  # the first holds the compilation
    spins = jnp.where(theirs(jax.random.key(9)).reshape(-1, SPINS), 1.0, -1.0)
    energy = jax.vmap(lambda s: model.energy(s, NOTHING))
    return {
        "chains": chains,
        "colours": max(model.colours) + 1,
        "eqprop_sweeps_per_second": chains * sweeps / statistics.median(p[0] for p in pairs),
        "thrml_sweeps_per_second": chains * sweeps / statistics.median(p[1] for p in pairs),
        "ratio": statistics.median(p[1] / p[0] for p in pairs),
        "eqprop_energy": float(jnp.mean(energy(mine(jax.random.key(9))))),
        "thrml_energy": float(jnp.mean(energy(spins))),
    }


class Well(ep.System):
    """Coupled quartic wells."""

    coupling: jax.Array

    def energy(self, state, inputs):
        return jnp.sum(state**4) / 4 + jnp.sum(state**2) / 2 - jnp.sum(self.coupling * state[1:] * state[:-1])

    def initial_state(self, inputs):
        return jnp.zeros(self.coupling.shape[0] + 1)


def langevin(steps: int) -> dict[str, float]:
    """Steps per second of the compiled scan and of a Python loop over a compiled gradient, one chain of 20 units."""
    system = Well(jnp.full(19, 0.3))
    solver = ep.Langevin(0.5, 0.02, chains=1, burn_in=0, samples=1, thin=steps)
    run = jax.jit(lambda key: solver.solve(system, NOTHING, jnp.zeros(20), free=None, key=key).state)
    slope = jax.jit(jax.grad(lambda s: system.energy(s, NOTHING)))

    def loop(key, count):
        state = jnp.zeros(20)
        for index in range(count):
            noise = jax.random.normal(jax.random.fold_in(key, index), (20,))
            state = state - 0.02 * slope(state) + (2 * 0.5 * 0.02) ** 0.5 * noise
        return state

    count = 500
    pairs = []
    for repeat in range(6):
        key = jax.random.key(repeat)
        pairs.append((seconds(run, key) / steps, seconds(lambda k: loop(k, count), key) / count))
    pairs = pairs[1:]  # the first holds the compilation
    return {
        "steps_per_second": 1 / statistics.median(p[0] for p in pairs),
        "python_loop_steps_per_second": 1 / statistics.median(p[1] for p in pairs),
        "ratio": statistics.median(p[1] / p[0] for p in pairs),
    }


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for chains in arguments.chains:
        row = gibbs(chains, arguments.sweeps, arguments.repeats)
        print(
            f"{chains:3d} chains {row['eqprop_sweeps_per_second']:9.0f} sweeps/s, thrml"
            f" {row['thrml_sweeps_per_second']:9.0f}: {row['ratio']:.2f} times"
        )
        rows.append(row)
    walk = langevin(20_000)
    print(
        f"Langevin {walk['steps_per_second']:9.0f} steps/s, Python loop"
        f" {walk['python_loop_steps_per_second']:9.0f}: {walk['ratio']:.0f} times"
    )
    save({"gibbs": rows, "langevin": walk}, arguments.out, "gibbs")


if __name__ == "__main__":
    main()
