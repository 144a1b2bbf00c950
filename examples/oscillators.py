"""Six phase oscillators learn XOR: two input angles turn their fields, a third oscillator answers by the way it turns."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqprop as ep

UNITS, OUTPUT = 6, 5
PATTERNS = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
ANSWERS = jnp.array([[-1.0], [1.0], [1.0], [-1.0]])


def angles(inputs):
    """Field angles of a pattern: the two inputs, and references at 0 and pi/2 for hidden and output oscillators. [rad]"""
    return jnp.concatenate([inputs, jnp.zeros((*inputs.shape[:-1], 2)), jnp.full((*inputs.shape[:-1], 1), jnp.pi / 2)], -1)


def main(folder: Path) -> float:
    """Train, draw `oscillators.svg`, and return the largest error of the four answers. [rad]"""
    edges = [(i, j) for i in range(UNITS) for j in range(i + 1, UNITS)]
    coupling = 0.7 * jax.random.normal(jax.random.key(1), (len(edges),))
    driven, field = (0, 1, 5, 3, 4), jnp.array([2.0, 2.0, 0.5, 0.5, 0.5])
    system = ep.OscillatorGraph(UNITS, edges, coupling, driven=driven, field=field, outputs=[OUTPUT])
    solver = ep.BlockDescent(rtol=1e-5, atol=1e-6, max_steps=2000, relaxation=1.0)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), solver)
    optimiser = optax.adam(0.05)
    state = optimiser.init((system.coupling, system.field))
    inputs = angles(PATTERNS)
    for _ in range(250):
        gradient = propagate(system, ep.PhaseError(), inputs, ANSWERS).gradient
        update, state = optimiser.update((gradient.coupling, gradient.field), state)
        coupling, field = optax.apply_updates((system.coupling, system.field), update)
        system = ep.OscillatorGraph(UNITS, edges, coupling, driven=driven, field=field, outputs=[OUTPUT])

    def read(x):
        return system.output(ep.settle(system, x, solver, throw=False).state)[0]

    worst = float(jnp.abs(jnp.sin((jax.vmap(read)(inputs) - ANSWERS[:, 0]) / 2)).max() * 2)
    axis = np.linspace(-1.6, 1.6, 41)
    plane = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), inputs.dtype)
    answer = np.asarray(jnp.sin(jax.vmap(read)(angles(plane)))).reshape(41, 41)
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    shown = axes.pcolormesh(axis, axis, answer, cmap="twilight_shifted", vmin=-1, vmax=1)
    axes.scatter(*np.asarray(PATTERNS).T, c=np.asarray(ANSWERS)[:, 0], cmap="gray", edgecolor="k", s=80)
    axes.set(xlabel="first input angle [rad]", ylabel="second input angle [rad]", title="XOR by coupled oscillators")
    figure.colorbar(shown, label="sine of the answering phase")
    figure.savefig(folder / "oscillators.svg")
    plt.close(figure)
    return worst


if __name__ == "__main__":
    print(f"largest error of an answer: {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.3f} rad")
