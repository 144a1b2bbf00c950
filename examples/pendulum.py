"""A pendulum learns its length: from what it is seen to do, by turning its momentum round."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from eqprop.cost import RunningCost, SquaredError
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.run import Run
from eqprop.substrates.trajectory import PendulumChain


def pendulum(length):
    """A pendulum let go at one radian, seen for two seconds."""
    return PendulumChain(jnp.array([length]), jnp.array([1.0]), step=0.02, samples=101)


def swing(system):
    """What is seen of it."""
    return system.output(Run().solve(system, jnp.zeros(1), None, free=None, key=None).state)


def main(folder: Path, steps=60):
    """Learn, draw `pendulum.svg`, and return the lengths on the way. [m]."""
    inputs = jnp.zeros((1, 1))  # nothing drives it
    targets = swing(pendulum(0.8))[None]
    cost = RunningCost(SquaredError(), 0.02)
    propagate = EchoPropagation(symmetric(1e-2))
    optimiser = optax.adam(0.02)
    system = pendulum(1.2)
    state = optimiser.init(eqx.filter(system, eqx.is_inexact_array))
    lengths = []
    for _ in range(steps):
        estimate = propagate(system, cost, inputs, targets)
        # Only the length is learned: what it starts from is known.
        gradient = jax.tree.map(jnp.zeros_like, estimate.gradient)
        gradient = eqx.tree_at(lambda s: s.length_scale, gradient, estimate.gradient.length_scale)
        updates, state = optimiser.update(gradient, state)
        system = eqx.apply_updates(system, updates)
        lengths.append(float(system.length_of[0]))
    draw(folder, lengths, {"seen": targets[0], "at first": swing(pendulum(1.2)), "learned": swing(system)})
    return lengths


def draw(folder, lengths, swings):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for (name, angle), style in zip(swings.items(), ("k", "C1:", "C0--"), strict=True):
        left.plot(0.02 * jnp.arange(len(angle)), angle, style, lw=3 if name == "seen" else 1.5, label=name)
    left.set(xlabel="time [s]", ylabel="angle [rad]", title="A pendulum let go at one radian")
    left.legend()
    right.plot(lengths)
    right.axhline(0.8, color="k", lw=0.8)
    right.set(xlabel="updates", ylabel="length [m]", title="Its length, learned by echoes")
    figure.savefig(folder / "pendulum.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    print(f"length {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.'))[-1]:.3f} m; it is 0.800 m")
