"""The picture of the README: a network of digits settles, is nudged, and what it learns from the nudge is the gradient.

Run from the root of the repository: `python docs/img/make.py`. It trains for a few seconds and writes settling.svg.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

from eqprop.gradient.propagation import EquilibriumPropagation  # noqa: E402
from eqprop.gradient.reference import ImplicitDifferentiation  # noqa: E402
from eqprop.gradient.stencil import one_sided, symmetric  # noqa: E402
from eqprop.settle.base import settle  # noqa: E402
from eqprop.settle.descent import BlockDescent, FixedPoint  # noqa: E402
from eqprop.settle.newton import Newton  # noqa: E402
from eqprop.system import Forced  # noqa: E402
from eqprop.train.config import load_config  # noqa: E402
from eqprop.train.evaluate import outputs_of  # noqa: E402
from eqprop.train.fit import fit  # noqa: E402
from eqprop.train.report.figure import GRID, INK, MUTED, SERIES, SHADE, drawing, log_axis  # noqa: E402
from eqprop.train.report.settling import trace  # noqa: E402

NETWORK = ("recipe.hidden=[64]", 'recipe.activation="logistic"', "epochs=4", "precision=float64")
BETA = 0.6  # far stronger than in training, so that the pull can be seen
STEP, FREE_TIME, NUDGED_TIME = 0.1, 10, 10
BETAS = np.geomspace(0.01, 1, 9)
COLOURS = """
:root { --ink: #24292f; --muted: #57606a; --grid: #d5d9de; --shade: #9aa4b2; --series-1: #1f6fd1; --series-2: #d9622b;
        --letters: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
@media (prefers-color-scheme: dark) {
:root { --ink: #e6edf3; --muted: #9ba6b2; --grid: #3a424c; --shade: #6b7683; --series-1: #6cabff; --series-2: #ff9a66 }
}
"""


def trained():
    """The experiment and its trained system."""
    config = load_config("digits", NETWORK)
    experiment = config.build()
    fitted = fit(experiment, epochs=config.epochs, batch_size=config.batch_size, key=config.training_key())
    return experiment, fitted.system


def surest_mistake(experiment, system):
    """The test example whose right class is beaten by most."""
    inputs, targets = experiment.test
    scores, _ = outputs_of(system, BlockDescent(), inputs)
    right = np.argmax(np.asarray(targets), axis=1)
    rows = np.arange(len(right))
    index = int(np.argmax(scores.max(axis=1) - scores[rows, right]))
    return inputs[index], targets[index], int(right[index]), int(np.argmax(scores[index]))


def phases(experiment, system, x, y):
    """Outputs over time: in the free phase, then under the nudge."""
    # Small steps towards the minimisers: units that leak and are driven, ds/dt = -s + σ(drive).
    flow = FixedPoint(rtol=1e-9, atol=1e-9, max_steps=10_000, relaxation=STEP)
    free = settle(system, x, flow)
    nudged = Forced(system, experiment.cost, y, free, jnp.asarray(BETA))
    first = trace(system, flow, x, length=int(FREE_TIME / STEP)).outputs
    second = trace(nudged, flow, x, length=int(NUDGED_TIME / STEP), free=free).outputs
    start = system.output(system.initial_state(x))
    return np.concatenate([np.asarray(start)[None], np.asarray(first), np.asarray(second)])


def cosines(experiment, system, rule):
    """Of the estimated with the exact gradient, at each nudging strength."""
    inputs, targets = (leaf[:32] for leaf in experiment.test)
    exact = ImplicitDifferentiation(Newton(1e-12, 1e-13))(system, experiment.cost, inputs, targets).gradient
    truth = flat(exact)
    found = []
    for beta in BETAS:
        propagate = EquilibriumPropagation(rule(beta), BlockDescent(1e-11, 1e-13, 5_000))
        gradient = flat(propagate(system, experiment.cost, inputs, targets).gradient)
        found.append(gradient @ truth / np.linalg.norm(gradient) / np.linalg.norm(truth))
    return np.asarray(found)


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def draw_phases(axes, outputs, right, wrong):
    time = STEP * np.arange(len(outputs))
    axes.axvspan(FREE_TIME, time[-1], color=SHADE, alpha=0.18, linewidth=0)
    for k, values in enumerate(outputs.T):
        chosen = {right: (SERIES[0], 2.4), wrong: (SERIES[1], 2.4)}.get(k, (SHADE, 0.9))
        axes.plot(time, values, color=chosen[0], linewidth=chosen[1], zorder=3 if k in (right, wrong) else 2)
    top = float(outputs.max()) + 0.14
    axes.text(0.3, top - 0.03, "free phase", va="top", color=MUTED)
    axes.text(FREE_TIME + 0.3, top - 0.03, f"nudged towards “{right}”, β = {BETA}", va="top", color=MUTED)
    # Labels stay apart, though the two curves may end close to each other.
    middle, apart = outputs[-1, [right, wrong]].mean(), outputs[-1, right] - outputs[-1, wrong]
    gap = max(abs(apart), 0.08) * (1 if apart > 0 else -1)
    axes.text(time[-1] + 0.3, middle + gap / 2, f"“{right}”", va="center", color=SERIES[0], weight="bold")
    axes.text(time[-1] + 0.3, middle - gap / 2, f"“{wrong}”", va="center", color=SERIES[1], weight="bold")
    axes.set(xlim=(0, time[-1]), ylim=(float(outputs.min()) - 0.05, top), xlabel="time")
    axes.set_xticks(range(0, int(time[-1]) + 1, 5))
    axes.set_title("The ten outputs settle, are nudged, and settle again", color=INK)


def draw_cosines(axes, found):
    for (label, values), colour in zip(found.items(), SERIES, strict=False):
        axes.plot(BETAS, 1 - values, color=colour, marker="o", markersize=3.5, label=label)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set(xlabel="nudging strength β")
    axes.set_title("1 − cosine of what is learned with the exact gradient", color=INK)
    axes.legend()


def main():
    experiment, system = trained()
    x, y, right, wrong = surest_mistake(experiment, system)
    outputs = phases(experiment, system, x, y)
    found = {name: cosines(experiment, system, rule) for name, rule in (("+β, 0", one_sided), ("+β, −β", symmetric))}

    def draw(figure):
        left, middle, right_side = figure.subplots(1, 3, width_ratios=(0.62, 3, 2.3))
        left.imshow(1 - np.asarray(x).reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        left.set(xticks=[], yticks=[], title=f"a “{right}”")
        left.spines[:].set(visible=True, color=GRID)
        left.grid(visible=False)
        draw_phases(middle, outputs, right, wrong)
        draw_cosines(right_side, found)

    describe = (
        f"The outputs of a trained network on a handwritten {right}: settling freely it says {wrong}; nudged, the "
        f"output of {right} rises. At the right, 1 − cosine of estimated and exact gradient against beta."
    )
    svg = drawing(draw, name="settling", describe=describe, size=(10.5, 3.1), decimals=1)
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    svg = svg.replace("<svg ", head, 1).replace(">", f"><style>{COLOURS}</style>", 1)
    (Path(__file__).parent / "settling.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
