"""Seven spins learn XOR at a finite temperature; and where a nudge that is too weak meets the dead zone."""

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
EDGES = [(i, h) for i in (0, 1) for h in (2, 3, 4, 5)] + [(h, 6) for h in (2, 3, 4, 5)]
BETAS = np.geomspace(0.1, 30, 10)


def train(epochs: int = 200):
    """The trained model, and the mean outputs of the four patterns after each update."""
    model = ep.Ising(2, 5, EDGES, [6], key=jax.random.key(0), gain=1.0)
    sampler = ep.Gibbs(0.5, chains=16, burn_in=10, samples=10)
    propagate = ep.EquilibriumPropagation(ep.one_sided(4.0), sampler, nudge=ep.CostNudged)
    optimiser = optax.adam(0.05)

    @eqx.filter_jit
    def run(model, key):
        moving, still = eqx.partition(model, eqx.is_inexact_array)

        def update(carry, key):
            moving, memory = carry
            estimate = propagate(eqx.combine(moving, still), ep.SquaredError(), PATTERNS, ANSWERS, key=key)
            change, memory = optimiser.update(estimate.gradient, memory, moving)
            return (eqx.apply_updates(moving, change), memory), estimate.outputs[:, 0]

        (moving, _), outputs = jax.lax.scan(update, (moving, optimiser.init(moving)), jax.random.split(key, epochs))
        return eqx.combine(moving, still), outputs

    return run(model, jax.random.key(1))


def dead_fraction(temperature: float) -> list[float]:
    """Of untrained models: the fraction of wrong answers that give no contrast, for each nudging strength."""

    @eqx.filter_jit
    def count(model, beta):
        rule = ep.EquilibriumPropagation(ep.one_sided(beta), ep.Enumeration(temperature), nudge=ep.CostNudged)
        estimate = rule(model, ep.SquaredError(), PATTERNS, ANSWERS)
        zone = ep.dead_zone(estimate, jnp.sign(estimate.outputs[:, 0]) != ANSWERS[:, 0])
        return zone.dead, zone.wrong

    models = [ep.Ising(2, 5, EDGES, [6], key=jax.random.key(k), gain=3.0) for k in range(12)]
    totals = [np.sum([count(m, jnp.asarray(b)) for m in models], axis=0) for b in BETAS]
    return [float(dead / wrong) for dead, wrong in totals]


def main(folder: Path) -> float:
    """Train, draw `ising.svg`, and return the exact mean output of the worst pattern, times its target."""
    model, outputs = train()
    exact = ep.Enumeration(0.5)
    means = jax.vmap(lambda x: ep.settle(model, x, exact).expect(model.output)[0])(PATTERNS)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for pattern, line in zip(np.asarray(PATTERNS, int).tolist(), np.asarray(outputs).T, strict=True):
        left.plot(line, label=str(tuple(pattern)))
    left.set(xlabel="update", ylabel="mean output spin", title="XOR on seven spins, T = 0.5")
    left.legend(title="inputs")
    for temperature in (0.02, 0.1):
        right.semilogx(BETAS, dead_fraction(temperature), marker="o", label=f"T = {temperature}")
    right.set(
        xlabel="nudging strength", ylabel="wrong answers without contrast", title="The dead zone", ylim=(-0.05, 1.05)
    )
    right.legend()
    figure.savefig(folder / "ising.svg", metadata={"Date": None})
    plt.close(figure)
    return float(jnp.min(means * ANSWERS[:, 0]))


if __name__ == "__main__":
    print(f"mean output of the worst pattern: {main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.3f}")
