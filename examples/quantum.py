"""A sensor spin learns the phase of a ring of four spins, by nudging it and measuring the terms of its couplings."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqprop as ep
from eqprop.train.recipes.quantum import cluster_hamiltonians, sensor

MATTER = 4


def main(folder: Path) -> float:
    """Train, draw `quantum.svg`, and return the accuracy on Hamiltonians not trained on."""
    system = sensor(MATTER, 1, jax.random.key(0))
    random = np.random.default_rng(0)
    (inputs, targets), (held_out, phases) = (
        cluster_hamiltonians(random, count, MATTER, window=1.0, disorder=0.2, mixing=0.5) for count in (40, 100)
    )
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), ep.DenseEigen(rtol=1e-4, atol=1e-4))
    optimiser = optax.adam(0.05)
    state = optimiser.init(system.coefficients)
    read = eqx.filter_jit(
        lambda system: jax.vmap(lambda x: system.output(ep.settle(system, x, ep.DenseEigen(rtol=1e-4)).state)[0])(
            held_out
        )
    )
    before = read(system)
    for _ in range(60):
        gradient = propagate(system, ep.SquaredError(), inputs, targets).gradient
        update, state = optimiser.update(gradient.coefficients, state)
        system = eqx.tree_at(lambda s: s.coefficients, system, system.coefficients + update)
    after = read(system)
    cluster, field = np.split(np.asarray(held_out)[:, : 2 * MATTER], 2, axis=1)
    ratio = np.log(cluster / field).mean(1)
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    axes.scatter(ratio, before, c="0.7", label="before training")
    axes.scatter(ratio, after, c=np.asarray(phases)[:, 0], cmap="coolwarm", edgecolor="k", label="after")
    axes.axvline(0, color="k", lw=0.8)
    axes.set(xlabel="mean logarithm of K over g", ylabel="sensor's ⟨Z⟩", title="trivial (left) or topological (right)")
    axes.legend()
    figure.savefig(folder / "quantum.svg", metadata={"Date": None})
    plt.close(figure)
    return float(np.mean(np.sign(np.asarray(after)) == np.asarray(phases)[:, 0]))


if __name__ == "__main__":
    print(f"phases recognised: {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.1%}")
