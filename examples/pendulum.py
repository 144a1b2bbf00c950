"""A pendulum learns its length: from what it is seen to do, by turning its momentum round."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from eqprop.cost import RunningCost, SquaredError
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.run import Run
from eqprop.substrates.trajectory import PendulumChain


def pendulum(length):
    """A pendulum let go at one radian, seen for two seconds."""
    return PendulumChain(jnp.array([length]), jnp.array([1.0]), step=0.02, samples=101)


def main(steps=60):
    """Learn; return the lengths on the way. [m]."""
    inputs = jnp.zeros((1, 1))  # nothing drives it
    seen = Run().solve(pendulum(0.8), inputs[0], None, free=None, key=None)
    targets = pendulum(0.8).output(seen.state)[None]
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
    return lengths


if __name__ == "__main__":
    print(f"length {main()[-1]:.3f} m; it is 0.800 m")
