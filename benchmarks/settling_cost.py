"""Gradient error against settling cost, for every solver of a deterministic system.

Run `python benchmarks/settling_cost.py`: prints a table, and writes `settling_cost.json` and `settling_cost.png` to
`benchmarks/results`. One network of hard sigmoids is settled with tolerances from 0.1 to 1e-9, in float64; the error of
the symmetric estimator at the free state so found is held against implicit differentiation at the free state of
Newton's method. The adaptive flow is left out: it does not stop at walls. Compare the curves of one run, not times of
different runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _measure import flat, options, save, seconds

import eqprop as ep

BETA = 1e-4
"""Small enough that the difference rule's own error (about beta squared) stays below what is plotted."""

SOLVERS = {
    "gradient flow, Euler steps of 0.3": lambda rtol: ep.GradientFlow(0.3, rtol, rtol * 1e-3, 5_000),
    "fixed point (synchronous)": lambda rtol: ep.FixedPoint(rtol, rtol * 1e-3, 5_000),
    "block descent, plain": lambda rtol: ep.BlockDescent(rtol, rtol * 1e-3, 5_000, relaxation=1.0),
    "block descent, over-relaxed": lambda rtol: ep.BlockDescent(rtol, rtol * 1e-3, 5_000),
    "Newton": lambda rtol: ep.Newton(rtol, rtol * 1e-3),
}


def task(batch, key):
    """A network of two hidden layers and random inputs."""
    keys = jax.random.split(key, 3)
    network = ep.LayeredHopfield([64, 48, 32, 10], key=keys[0], gain=0.9)
    inputs = jax.random.uniform(keys[1], (batch, 64))
    targets = jnp.eye(10)[jax.random.randint(keys[2], (batch,), 0, 10)]
    return network, ep.SquaredError(), inputs, targets


def measure(batch, tolerances, repeats):
    """Time, steps and error of each solver at each tolerance."""
    problem = task(batch, jax.random.key(0))
    truth = flat(ep.ImplicitDifferentiation(ep.Newton(1e-13, 1e-14))(*problem).gradient)
    curves = {}
    for name, make in SOLVERS.items():
        points = []

        # The tolerance is an array: one compilation for all of them.
        @jax.jit
        def step(inputs, targets, rtol, make=make):
            propagate = ep.EquilibriumPropagation(ep.symmetric(BETA), make(rtol))
            return propagate(*problem[:2], inputs, targets)

        for rtol in tolerances:
            found = step(*problem[2:], rtol)
            best = seconds(lambda rtol=rtol, step=step: step(*problem[2:], rtol), repeats)
            error = flat(found.gradient) - truth
            points.append(
                {
                    "rtol": rtol,
                    "seconds": best,
                    "free_steps": float(jnp.mean(found.free.steps)),
                    "nudged_steps": float(jnp.mean(found.nudged.steps)),
                    "settled": float(found.settled.mean()),
                    "relative_error": float(np.linalg.norm(error) / np.linalg.norm(truth)),
                }
            )
        curves[name] = points
    return {"batch": batch, "beta": BETA, "solvers": curves}


def plot(result, path):
    """Error over time, a curve for each solver."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in result["solvers"].items():
        whole = [p for p in points if p["settled"] == 1.0]
        axes.loglog([1e3 * p["seconds"] for p in whole], [p["relative_error"] for p in whole], "o-", label=name)
    axes.set(
        xlabel=f"settling and gradient, ms for {result['batch']} examples",
        ylabel="relative error of the gradient",
        title="Gradient error against settling cost",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main():
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    result = measure(arguments.batch, [10.0**-k for k in range(1, 10)], arguments.repeats)
    save(result, arguments.out, "settling_cost")
    plot(result, arguments.out / "settling_cost.png")
    for name, points in result["solvers"].items():
        print(name)
        for p in points:
            print(
                f"  rtol {p['rtol']:.0e}: {1e3 * p['seconds']:8.2f} ms, {p['free_steps']:7.1f} + "
                f"{p['nudged_steps']:6.1f} steps, settled {100 * p['settled']:3.0f} %, error {p['relative_error']:.1e}"
            )


if __name__ == "__main__":
    main()
