"""Ten coupled oscillators learn XOR: two inputs turn their fields, an eleventh answers by the way it turns."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqprop as ep

PATTERNS = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
ANSWERS = jnp.array([[-1.0], [1.0], [1.0], [-1.0]])


def main(folder: Path) -> float:
    """Train, draw `oscillators.svg`, and return the largest error of the four answers. [rad]"""
    system = ep.LayeredOscillators([2, 10, 1], key=jax.random.key(0), gain=1.5)
    solver = ep.BlockDescent(rtol=1e-4, atol=1e-5, max_steps=2000, relaxation=1.0)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), solver)
    optimiser = optax.adam(0.03)
    state = optimiser.init(eqx.filter(system, eqx.is_inexact_array))
    for _ in range(200):
        gradient = propagate(system, ep.PhaseError(), PATTERNS, ANSWERS).gradient
        update, state = optimiser.update(eqx.filter(gradient, eqx.is_inexact_array), state)
        system = eqx.apply_updates(system, update)

    def read(x):
        return system.output(ep.settle(system, x, solver, throw=False).state)[0]

    worst = float(jnp.abs(jnp.sin((jax.vmap(read)(PATTERNS) - ANSWERS[:, 0]) / 2)).max() * 2)
    axis = np.linspace(-1.6, 1.6, 41)
    plane = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), PATTERNS.dtype)
    answer = np.asarray(jnp.sin(jax.vmap(read)(plane))).reshape(41, 41)
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    shown = axes.pcolormesh(axis, axis, answer, cmap="coolwarm", vmin=-1, vmax=1, rasterized=True)
    axes.scatter(*np.asarray(PATTERNS).T, c=np.asarray(ANSWERS)[:, 0], cmap="gray", edgecolor="k", s=80)
    axes.set(xlabel="first input", ylabel="second input", title="XOR by coupled oscillators")
    figure.colorbar(shown, label="sine of the answering phase")
    figure.savefig(folder / "oscillators.svg", metadata={"Date": None})
    plt.close(figure)
    return worst


if __name__ == "__main__":
    print(f"largest error of an answer: {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.3f} rad")
