"""Sections on sampled distributions: is the gradient right within its noise, and is the burn-in long enough."""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from eqprop.equilibrium import Ensemble
from eqprop.gradient.covariance import BoltzmannCovariance
from eqprop.gradient.estimate import batch_size, free_phase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.settle.sample import Sampler
from eqprop.train.check_ensemble import CheckedEnsemble, check_ensemble
from eqprop.train.report.certificate import curves, table
from eqprop.train.report.figure import INK, MUTED, SERIES, panel
from eqprop.train.report.section import Headline, LeftOut, Picture, Section
from eqprop.train.report.study import Study

__all__ = ["sampled_proof", "sampled_settling"]

EXAMPLES = 4
LONGEST = 200
"""Updates of a chain shown at most."""


def sampled_proof(study: Study) -> Section:
    """Samples and gradient against the exact distribution, or a longer run, in standard errors."""
    experiment = study.experiment
    if not isinstance(experiment.propagate, EquilibriumPropagation | BoltzmannCovariance):
        raise LeftOut(f"`{type(experiment.propagate).__name__}` does not estimate the gradient of an expected cost")
    inputs, targets = study.examples(EXAMPLES)
    began = time.monotonic()
    found = check_ensemble(experiment.system, experiment.cost, inputs, targets, experiment.propagate)
    seconds = time.monotonic() - began
    text = (
        f"`{found.sampler}` at temperature {found.temperature:g}, on {batch_size(inputs)} held-out examples at the "
        f"trained weights, in {jnp.result_type(float).name}; {seconds:.1f} s. The samples, and the gradient made of "
        f"them, are held against {found.reference}, each number by its own standard error. {_said(found)}"
    )
    pictures = [_histogram(found)]
    if found.certificate is not None:
        pictures += curves(found.certificate)
        text += (
            "\n\nThe curves are those of the contrast without noise: what a finite β adds. A strong nudge does not "
            "follow the gradient of the cost itself but, exactly, that of a surrogate, the free energy gained over β."
        )
    return Section(
        "Is the gradient the true one?",
        text,
        tuple(pictures),
        table=() if found.certificate is None else table(found.certificate),
        headlines=_headlines(found),
    )


def _said(found: CheckedEnsemble) -> str:
    verdict = "CERTIFIED" if found.ok else "REFUSED: " + " ".join(found.problems)
    told = (
        f"{verdict}{'.' if found.ok else ''} The largest deviation is {found.state_score:.1f} standard errors for the "
        f"{found.state_scores.size} means and {found.gradient_score:.1f} for the {found.gradient_scores.size} entries "
        f"of the gradient; by chance {found.scores_expected:.1f} is exceeded once in a thousand checks. The noise of "
        f"this gradient is {found.noise:.0%} of its size: more examples, chains or samples average it away."
    )
    return " ".join((told, *found.warnings))


def _headlines(found):
    return (
        Headline(f"{found.gradient_score:.1f} σ", f"largest deviation of the gradient; {found.scores_expected:.1f} σ "
                 "is the limit"),
        Headline("CERTIFIED" if found.ok else "REFUSED", "the verdict on samples and gradient", found.ok),
    )  # fmt: skip


def _histogram(found):
    scores = found.gradient_scores[found.gradient_scores != 0]
    edge = max(4.0, float(np.max(np.abs(scores), initial=0.0)))
    bins = np.linspace(-edge, edge, int(np.clip(4 * np.sqrt(scores.size), 9, 41)) | 1)

    def draw(axes):
        axes.hist(scores, bins, color=SERIES[0], alpha=0.6, label="entries of the gradient")
        fine = np.linspace(-edge, edge, 121)
        expected = scores.size * (bins[1] - bins[0]) * scipy.stats.norm.pdf(fine)
        axes.plot(fine, expected, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="noise alone")
        for side in (-1, 1):
            axes.axvline(side * found.scores_expected, color=MUTED, linewidth=1, linestyle=":")
        axes.set_title("Deviations of the sampled gradient")
        axes.set_xlabel("standard errors")
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
        axes.legend()

    spread = float(np.std(scores)) if scores.size else 0.0
    describe = (
        f"Histogram of the deviations of {scores.size} entries of the gradient, in standard errors: standard deviation "
        f"{spread:.2f}, largest {found.gradient_score:.2f}."
    )
    return Picture(
        panel(draw, name="proof-scores", describe=describe),
        f"Dotted: the limit. Standard deviation {spread:.2f}; 1 is what noise alone gives.",
    )


def sampled_settling(study: Study) -> Section:
    """Mean energy and mean cost over the updates of the chains, burn-in and all."""
    experiment, solver = study.experiment, study.solver()
    propagate = experiment.propagate
    if not isinstance(solver, Sampler):
        raise LeftOut(f"`{type(solver).__name__}` lists all configurations; nothing settles")
    if solver.hottest is not None:
        raise LeftOut("the burn-in is annealed, so that its states are those of other temperatures")
    inputs, _ = study.examples(EXAMPLES)
    shown = min(LONGEST, solver.burn_in + solver.samples * solver.thin)
    every = dataclasses.replace(solver, burn_in=0, samples=max(shown, 2), thin=1, standard_error=None)
    energies = _traces(every, study)
    pictures = [_picture(np.asarray(energies), solver, "free", "Free phase", "mean energy", labels=None)]
    if isinstance(propagate, EquilibriumPropagation) and propagate.nudged_solver is None:
        nodes = np.real(np.asarray(propagate.stencil.draw(jax.random.key(0)).nodes))
        costs = np.asarray(_nudged_traces(every, solver, study, jnp.asarray(nodes))).mean(axis=1)
        labels = [f"β = {node:.3g}".replace("-", "−") for node in nodes]
        pictures.append(_picture(costs, solver, "nudged", "Nudged phases", "mean cost", labels=labels))
    text = (
        f"Means over the {solver.chains} chains of `{type(solver).__name__}`, on the first {batch_size(inputs)} "
        "held-out examples, from the first update on. What lies left of the dotted line, the burn-in, is not used: by "
        "there each curve should have reached the level about which it then fluctuates. Nudged phases start where the "
        "chains of the free phase stand; their cost is the mean over these examples."
    )
    return Section("How phases settle", text, tuple(pictures))


def _keys(inputs):
    return jax.random.split(jax.random.key(0), batch_size(inputs))


def _traces(every, study) -> Float[Array, "example update"]:
    """Mean energy over the chains after each update of the free phase."""
    system = study.experiment.system
    inputs, _ = study.examples(EXAMPLES)

    @eqx.filter_jit
    def run(system, inputs):
        phases = free_phase(system, every, inputs, None, _keys(inputs))
        return jax.vmap(lambda phase, x: _by_update(phase, every.chains, lambda s: system.energy(s, x)))(phases, inputs)

    return run(system, inputs)


def _nudged_traces(every, solver, study, nodes) -> Float[Array, "phase example update"]:
    """Mean cost over the chains after each update of the nudged phases."""
    experiment, propagate = study.experiment, study.experiment.propagate
    assert isinstance(propagate, EquilibriumPropagation)
    inputs, targets = study.examples(EXAMPLES)

    @eqx.filter_jit
    def run(system, inputs, targets):
        free = free_phase(system, solver, inputs, None, _keys(inputs))

        def one(beta, x, y, begin, key):
            nudged = propagate.nudge(system, experiment.cost, y, begin, beta)
            phase = every.solve(nudged, x, begin.restart, free=begin, key=key)
            return _by_update(phase, every.chains, lambda s: experiment.cost(system.output(s), y))

        batch = jax.vmap(one, (None, 0, 0, 0, 0))
        return jax.vmap(lambda beta: batch(beta, inputs, targets, free, _keys(inputs)))(nodes)

    return run(experiment.system, inputs, targets)


def _by_update(phase: Ensemble, chains: int, read):
    """The mean over chains of `read`, update by update."""
    return jnp.mean(jax.vmap(read)(phase.state).reshape(chains, -1), axis=0)


def _picture(rows, solver, name, title, what, *, labels):
    def draw(axes):
        for index, row in enumerate(rows):
            label = f"example {index}" if labels is None else labels[index]
            axes.plot(range(1, len(row) + 1), row, color=SERIES[index % len(SERIES)], label=label)
        axes.axvline(solver.burn_in + 0.5, color=MUTED, linewidth=1, linestyle=":")
        axes.set_title(f"{title}: {what}")
        axes.set_xlabel("update of the chains")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(ncols=2)

    describe = f"{title}: {what} against the update; it ends at {', '.join(f'{row[-1]:.3g}' for row in rows)}."
    return Picture(panel(draw, name=f"settling-{name}", describe=describe))
