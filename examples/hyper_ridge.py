"""The strength of ridge regularisation descends the validation error, the learner run again under a weak nudge."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqprop as ep
from eqprop.train.recipes.ridge import diabetes, error_of, mean_squared, ridge


def main(folder: Path) -> float:
    """Descend, draw `hyper_ridge.svg`, and return the validation error reached over the best of a fine grid."""
    train, validation, _ = diabetes(0, 150)
    weights = train[0].shape[-1]
    system = ep.InnerProblem(ridge, {"log_strength": jnp.array([2.0])}, jnp.zeros(weights))
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), ep.Newton(rtol=1e-5, atol=1e-6))
    cost, optimiser = ep.FunctionCost(mean_squared), optax.adam(0.2)
    state = optimiser.init(system.hyper)
    visited = []
    for step in range(150):
        estimate = propagate(system, cost, train, validation)
        visited.append((float(system.hyper["log_strength"][0]), float(estimate.value)))
        update, state = optimiser.update(estimate.gradient.hyper, state)
        system = eqx.tree_at(
            lambda s: s.hyper, system, jax.tree.map(lambda h, u, k=step: h + u * 0.98**k, system.hyper, update)
        )
    grid = np.linspace(-4, 4, 801)
    curve = np.array([error_of(np.array([strength]), train, validation) for strength in grid])
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    axes.plot(grid, curve, "0.6", label="grid of 801 strengths")
    axes.plot(*np.array(visited).T, ".-", color="tab:red", label="equilibrium propagation")
    axes.set(
        xlabel="logarithm of the strength",
        ylabel="validation error, half mean squared",
        title="Ridge regression of diabetes progression",
    )
    axes.legend()
    figure.savefig(folder / "hyper_ridge.svg", metadata={"Date": None})
    plt.close(figure)
    return visited[-1][1] / curve.min()


if __name__ == "__main__":
    print(f"validation error over the grid's best: {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.4f}")
