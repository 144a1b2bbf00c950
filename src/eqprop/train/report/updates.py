"""Updates step by step: equilibrium propagation beside backpropagation through time, at the trained weights."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from eqprop.gradient.gdu import UpdateComparison, compare_updates
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import Stencil, one_sided, symmetric
from eqprop.settle.descent import BlockDescent
from eqprop.substrates.hopfield import Hopfield
from eqprop.train.checkpoint import leaf_name
from eqprop.train.report.figure import SERIES, panel
from eqprop.train.report.section import Headline, LeftOut, Picture, Section
from eqprop.train.report.study import Study

__all__ = ["updates"]

EXAMPLES = 2
STEPS = 10
CURVES = 3
"""In each picture."""
PICTURES = 6
BETA = 0.1
"""Where the run's estimator has no real nudging strength of its own."""


def updates(study: Study) -> Section:
    """The curves of both rules for the parameters, and how far apart they are."""
    experiment = study.experiment
    system = experiment.system
    study.solver()
    if not isinstance(system, Hopfield):
        raise LeftOut(f"a `{type(system).__name__}` is no network that iterates towards rest in discrete time")
    inputs, targets = study.examples(EXAMPLES)
    beta = _strength(experiment.propagate)
    rules: dict[str, Stencil | None] = {
        "in the limit of no nudging": None,
        f"one-sided, β = {beta:g}": one_sided(beta),
        f"symmetric, β = ±{beta:g}": symmetric(beta),
    }
    tight = BlockDescent(rtol=1e-13, atol=1e-14, max_steps=5_000)
    began = time.monotonic()
    found = {
        name: compare_updates(system, experiment.cost, inputs, targets, steps=STEPS, stencil=stencil, free_solver=tight)
        for name, stencil in rules.items()
    }
    seconds = time.monotonic() - began
    limit, *_, nudged = found.values()
    settled = int(jnp.sum(limit.settled))
    if settled == 0:
        raise LeftOut("no free phase settled tightly enough for its last steps to be at rest")
    text = (
        "In each step of the nudged phase equilibrium propagation moves a parameter by what backpropagation through "
        "time computes for it one step further back from the end of the free phase. "
        f"Both are shown for {STEPS} synchronous steps at the trained weights, mean of {EXAMPLES} held-out examples, "
        f"in {jnp.result_type(float).name}; {seconds:.1f} s. {settled} of {EXAMPLES} free phases settled.\n\n"
        "Relative RMS: root mean square over time of the difference, over that of the larger of the two curves, mean "
        "over the parameters that move."
    )
    rows = tuple(
        (
            name,
            f"{float(both.relative_rms):.1e}",
            f"{float(both.relative_error):.1e}",
            f"{100 * float(both.sign_agreement):.2f} %",
        )
        for name, both in found.items()
    )
    return Section(
        "Updates beside backpropagation through time",
        text,
        tuple(_pictures(nudged, f"symmetric, β = ±{beta:g}")),
        table=(("nudge", "relative RMS", "relative error", "signs agree"), *rows),
        headlines=(
            Headline(f"{float(limit.relative_rms):.1e}", "relative RMS from backpropagation through time, per step"),
        ),
    )


def _strength(propagate):
    if isinstance(propagate, EquilibriumPropagation):
        nodes = np.asarray(propagate.stencil.draw(jax.random.key(0)).nodes)
        if not np.iscomplexobj(nodes):
            return float(np.abs(nodes).max())
    return BETA


def _pictures(both: UpdateComparison, rule: str):
    """A panel for each of the first few arrays of weights, with its largest entries."""
    leaves = jax.tree_util.tree_leaves_with_path(both.parameter_updates)
    pairs = zip(leaves, jax.tree.leaves(both.parameter_gradients), strict=True)
    weights = [(leaf_name(path), np.asarray(u), np.asarray(g)) for (path, u), g in pairs if u.ndim > 2]
    for number, (name, made, wanted) in enumerate(weights[:PICTURES]):
        made, wanted = (curve.reshape(len(curve), -1) for curve in (made, wanted))
        largest = np.argsort(-np.sum(wanted**2, 0))[:CURVES]

        def draw(axes, name=name, made=made, wanted=wanted, largest=largest):
            time = np.arange(len(made))
            for colour, entry in zip(SERIES, largest, strict=False):
                axes.plot(time, wanted[:, entry], color=colour)
                axes.plot(time, made[:, entry], "o", color=colour, markersize=4)
            axes.plot([], [], color=SERIES[0], label="through time")
            axes.plot([], [], "o", color=SERIES[0], markersize=4, label="equilibrium propagation")
            axes.set_title(name)
            axes.set_xlabel("steps")
            axes.legend()

        apart = float(np.linalg.norm(made - wanted) / max(np.linalg.norm(wanted), 1e-300))
        yield Picture(
            panel(
                draw,
                name=f"updates-{number}",
                describe=f"Updates of {name} by both rules over {len(made)} steps; relative error {apart:.1e}.",
            ),
            f"The {len(largest)} largest entries; {rule}; relative error of the whole array {apart:.1e}.",
        )
