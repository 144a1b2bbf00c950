"""Sections of runs that learn by echoes: the proof against backpropagation through time, and the motion itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.certify import certify
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.stencil import Stencil
from eqprop.motion import Hamiltonian, Stack
from eqprop.settle.echo import Echo
from eqprop.settle.retrace import honest_length
from eqprop.settle.run import Run
from eqprop.substrates.trajectory.animate import animate
from eqprop.system import Forced
from eqprop.train.report.section import Headline, LeftOut, Picture, Section
from eqprop.train.report.study import Study

__all__ = ["motion", "proof_by_time"]

EXAMPLES = 4
SHOWN = 4
"""Coordinates drawn: those that the nudge moves most."""
DISPLACEMENT = 0.15
"""The largest displacement drawn, as a fraction of the motion's range."""
_PAGE = {
    "#1b6ca8": "var(--series-1)", "#c8553d": "var(--series-2)", "#4b8f5c": "var(--series-3)",
    "#8a5aa8": "var(--series-4)", "#222": "var(--ink)", "#555": "var(--muted)", "#999": "var(--grid)",
    "sans-serif": "var(--letters)", ' xmlns="http://www.w3.org/2000/svg"': "",
}  # fmt: skip


def proof_by_time(study: Study) -> Section:
    """The gradient learned from against that of backpropagation through time, at the trained weights."""
    experiment = study.experiment
    propagate = experiment.propagate
    if not isinstance(propagate, EchoPropagation):
        raise LeftOut(f"`{type(propagate).__name__}` is the truth itself")
    inputs, targets = study.examples(EXAMPLES)
    certificate = certify(
        experiment.system, experiment.cost, inputs, targets, propagate,
        truth=BackpropagationThroughTime(Run()), key=jax.random.key(0),
    )  # fmt: skip
    verdict = "CERTIFIED" if certificate.ok else "REFUSED: " + " ".join(certificate.reasons)
    text = (
        f"The echo's gradient and that of backpropagation through time, on {EXAMPLES} held-out examples at the trained "
        f"weights, in {jnp.result_type(float).name}, at the nudging strength trained with. {verdict}: cosine "
        f"{certificate.cosine:.8f}, relative error {certificate.relative_error:.1e}, within the accepted "
        f"{certificate.tolerance:g}."
    )
    rows = tuple((name, f"{c:.8f}", f"{e:.1e}") for name, (c, e) in certificate.parameters.items())
    headlines = (
        Headline(f"{certificate.cosine:.6f}", "cosine of the echo's with the exact gradient"),
        Headline("CERTIFIED" if certificate.ok else "REFUSED", "the verdict on the gradient", certificate.ok),
    )
    return Section(
        "Is the gradient the true one?", text, table=(("parameter", "cosine", "relative error"), *rows),
        headlines=headlines,
    )  # fmt: skip


def motion(study: Study) -> Section:
    """The first held-out example in motion: the free run, and its nudged echo drawn over it."""
    system, experiment = study.experiment.system, study.experiment
    inputs, targets = jax.tree.map(lambda leaf: leaf[0], study.examples(1))
    propagate, cost = experiment.propagate, experiment.cost
    if isinstance(system, Stack):
        for block in system.blocks[:-1]:
            inputs = block.output(Echo().solve(block, inputs, None, free=None, key=None).state)
        system = system.blocks[-1]
    assert isinstance(system, Hamiltonian)
    stencil = propagate.stencil if isinstance(propagate, EchoPropagation) else None
    beta = jnp.max(jnp.abs(stencil.nodes)) if isinstance(stencil, Stencil) else jnp.asarray(0.03)
    unit = isinstance(propagate, EchoPropagation) and propagate.normalised

    @eqx.filter_jit
    def legs(system):
        free = Echo().solve(system, inputs, None, free=None, key=None)
        force = jax.grad(lambda f: cost(system.readout(f), targets))(system.features(free.state))
        norm = jnp.linalg.norm(force) if unit else jnp.ones(())
        strength = beta / jnp.where(norm > 0, norm, 1)
        nudged = Echo().solve(Forced(system, cost, targets, free, strength), inputs, None, free=free, key=None)
        return free.state.position, nudged.state.position, free.residual

    free, nudged, missed = (np.asarray(leaf, float) for leaf in legs(system))
    moved = np.abs(nudged - free).max(axis=0)
    shown = np.sort(np.argsort(-moved)[:SHOWN])
    largest, span = float(moved[shown].max()), float(np.ptp(free[:, shown]))
    magnify = _round(DISPLACEMENT * span / largest) if largest > 0 and span > 0 else 1.0
    length, samples = honest_length(system, inputs), system.length(inputs)
    text = (
        f"The first held-out example, {samples} samples: the {len(shown)} of {free.shape[1]} oscillators that the "
        "nudge moves most. Drawn through: the free run, forward. Dashed: its echo under a nudge of β = "
        f"{float(beta):.3g}{' and a force of unit norm' if unit else ''}, with its distance from the free run drawn "
        f"{magnify:g} times as large. Both share their end; what the nudge has changed grows towards the start, and is "
        f"what is learned from. Without a nudge the echo misses its start by {float(missed):.1e}; echoes are honest "
        f"for {length} of {samples} samples."
    )
    picture = _picture(free[:, shown], nudged[:, shown], system.step, shown, magnify)
    return Section("The motion, free and nudged", text, (Picture(picture, "The dots run with time."),))


def _round(value: float) -> float:
    """One leading digit."""
    power = 10.0 ** np.floor(np.log10(value))
    return max(float(np.round(value / power) * power), 1.0)


def _picture(free: Float[np.ndarray, "..."], nudged: Float[np.ndarray, "..."], step, shown, magnify) -> str:
    """The animation in the colours of the page."""
    svg = animate(
        free, nudged, times=step * np.arange(len(free)), names=[f"q{k}" for k in shown], magnify=magnify,
        title="position against time",
    )  # fmt: skip
    for colour, variable in _PAGE.items():
        svg = svg.replace(colour, variable)
    return svg
