"""A particle in two wells, shaken at a temperature: its distribution, its nudged distributions, and the step bias."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float

import eqprop as ep

TEMPERATURE = 0.4
COST = ep.SquaredError()
PUSH, WANTED = jnp.array([0.1]), jnp.array([1.0])
GRID = jnp.linspace(-2.5, 2.5, 2001)[:, None]


class Wells(ep.System):
    """Two wells, E = depth (s^2 - 1)^2 - field s - x s."""

    depth: Float[Array, ""]
    field: Float[Array, ""]

    def energy(self, state, inputs):
        return jnp.sum(self.depth * (state**2 - 1) ** 2 - (self.field + inputs) * state)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


def density(system, inputs):
    """The exact Boltzmann density on the grid."""
    weights = jnp.exp(-jax.vmap(lambda s: system.energy(s, inputs))(GRID) / TEMPERATURE)
    return weights / jnp.sum(weights) / (GRID[1, 0] - GRID[0, 0])


def exact_gradient(system):
    """Of the expected cost in the field, by quadrature."""

    def expected(field):
        moved = Wells(system.depth, field)
        return jnp.sum(density(moved, PUSH) * jax.vmap(lambda s: COST(s, WANTED))(GRID)) * (GRID[1, 0] - GRID[0, 0])

    return float(jax.grad(expected)(system.field))


@jax.jit
def step_bias(system, step):
    """Relative excess of the virial: as the sampler reports it, as its samples show it, and the error of that."""
    free = ep.settle(
        system, PUSH, ep.Langevin(TEMPERATURE, step, chains=500, samples=200), key=jax.random.key(1), throw=False
    )

    def virial(state):
        return jnp.sum(state * jax.grad(system.energy)(state, PUSH)) / TEMPERATURE

    return free.step_bias, free.expect(virial) - 1, free.standard_error(virial)


def main(folder: Path) -> float:
    """Sample, draw `langevin.svg`, and return by how many standard errors the gradient misses the exact one."""
    system = Wells(jnp.array(0.6), jnp.array(0.0))
    sampler = ep.Langevin(TEMPERATURE, 0.01, chains=200, burn_in=500, samples=100, thin=20)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), sampler, nudge=ep.CostNudged)
    estimate = propagate(system, COST, PUSH[None], WANTED[None], key=jax.random.key(0))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.hist(np.ravel(estimate.free.state), 80, density=True, histtype="stepfilled", alpha=0.4, label="samples")
    left.plot(GRID[:, 0], density(system, PUSH), label="exact")
    for beta in (-0.5, 0.5):
        nudged = ep.CostNudged(system, COST, WANTED, None, jnp.array(beta))
        left.plot(GRID[:, 0], density(nudged, PUSH), "--", label=f"nudged, β = {beta}")
    left.set(xlabel="position", ylabel="probability density", title="A Boltzmann distribution and its nudges")
    left.set_ylim(0, 1.4 * left.get_ylim()[1])
    left.legend(ncols=2)
    steps = np.array([0.01, 0.02, 0.04, 0.06, 0.08])
    told, seen, error = np.array([step_bias(system, jnp.asarray(step)) for step in steps]).T
    right.plot(steps, told, marker="o", label="as reported")
    right.errorbar(steps, seen, error, fmt="s", mfc="none", label="seen in the samples")
    right.set(xlabel="time step", ylabel="excess of ⟨s ∂E/∂s⟩ over T", title="Bias of the time step")
    right.legend()
    figure.savefig(folder / "langevin.svg", metadata={"Date": None})
    plt.close(figure)
    missed = float(estimate.gradient.field) - exact_gradient(system)
    return abs(missed) / float(estimate.standard_error.field)


if __name__ == "__main__":
    print(f"gradient off by {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.2f} standard errors")
