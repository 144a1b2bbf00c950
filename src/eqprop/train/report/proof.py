"""The proof: the gradient learned from, held against the exact one at the trained weights, over beta."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from eqprop.equilibrium import Equilibrium
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import ImplicitDifferentiation
from eqprop.settle.base import IterativeSolver
from eqprop.settle.newton import Newton
from eqprop.train.report.figure import INK, MUTED, SERIES, SHADE, log_axis, panel
from eqprop.train.report.section import Headline, LeftOut, Picture, Section
from eqprop.train.report.settling import free_equilibria
from eqprop.train.report.study import Study

__all__ = ["gradient_proof"]

DENSE_UNITS = 1_600
"""Largest state for which a dense Hessian of each example is made: seconds of work."""
EXAMPLES = ((400, 8), (DENSE_UNITS, 4))
"""Examples judged, for states of up to so many units."""
EXAMPLES_OF_LARGE = 2


def gradient_proof(study: Study) -> Section:
    """The certificate, and its pictures."""
    experiment, solver = study.experiment, study.solver()
    propagate = experiment.propagate
    if not isinstance(propagate, EquilibriumPropagation):
        raise LeftOut(f"the estimator is `{type(propagate).__name__}`, which nudges by no stencil")
    large = study.units > DENSE_UNITS
    few = next((number for units, number in EXAMPLES if study.units <= units), EXAMPLES_OF_LARGE)
    inputs, targets = study.examples(few)
    free = free_equilibria(experiment.system, solver, inputs)
    if not isinstance(free, Equilibrium):
        raise LeftOut(
            f"its equilibria are not points but of the kind `{type(free).__name__}`, to which implicit differentiation "
            "does not apply"
        )
    truth, how = _truth(study, solver, large)
    began = time.monotonic()
    certificate = certify(
        experiment.system, experiment.cost, inputs, targets, propagate, truth=truth, key=jax.random.key(0)
    )
    seconds = time.monotonic() - began
    dtype = jnp.result_type(float).name
    text = (
        f"The gradient that equilibrium propagation learns from, and the exact one ({how}), on "
        f"{len(np.asarray(free.steps))} held-out examples at the trained weights, in {dtype}; {seconds:.1f} s. "
        "The certificate judges the estimator with the tolerances it was trained with. The curves show it tightly "
        "settled, so that what they show is the error of the difference rule alone.\n\n" + _verdict(certificate)
    )
    return Section(
        "Is the gradient the true one?",
        text,
        (_cosines(certificate), _errors(certificate)),
        table=_table(certificate),
        headlines=_headlines(certificate),
    )


def _truth(study, solver, large):
    if not large:
        return ImplicitDifferentiation(Newton(rtol=1e-12, atol=1e-13)), "by implicit differentiation, dense Hessians"
    if not isinstance(solver, IterativeSolver):
        raise LeftOut(
            f"a state of {study.units} units is too large for dense Hessians, and `{type(solver).__name__}` cannot be "
            "tightened in their place"
        )
    tight = eqx.tree_at(lambda s: (s.rtol, s.atol, s.max_steps), solver, (1e-11, 1e-13, 20 * solver.max_steps))
    how = (
        f"by implicit differentiation; the {study.units} units of the state are too many for dense Hessians in a "
        "report, so that conjugate gradients solve with them, which takes the free state to be a minimum, and the "
        "free phase is found by the run's own solver, tightened"
    )
    return ImplicitDifferentiation(tight, lx.CG(rtol=1e-10, atol=1e-12)), how


def _verdict(certificate: Certificate) -> str:
    if not certificate.ok:
        return "REFUSED: " + " ".join(certificate.reasons)
    if certificate.exact:
        rule = "The error is at the rounding floor: the difference rule is exact here."
    elif certificate.order is not None:
        rule = (
            f"The error falls with β to the power {certificate.order:.2f}; the difference rule declares "
            f"{certificate.declared_order}."
        )
        if certificate.declared_order is not None and certificate.order < certificate.declared_order - 0.3:
            rule += " Kinks, where a unit reaches or leaves a bound within the nudge, cost it the rest."
    else:
        rule = _without_order(certificate)
    return (
        f"CERTIFIED: cosine {certificate.cosine:.8f}, relative error {certificate.relative_error:.1e}, within the "
        f"accepted {certificate.tolerance:g}. {rule}"
    )


def _without_order(certificate):
    strengths, errors = _strengths(certificate), np.asarray(certificate.errors)
    exact = strengths[errors <= _floors(certificate)]
    if not len(exact):
        return "Tightly settled, its error follows no single power of β."
    return (
        f"Tightly settled, it is exact up to β = {exact.max():.3g}: only rounding is left. Above, the error follows no "
        "single power of β; that is what kinks do, where a unit reaches or leaves a bound within the nudge."
    )


def _floors(certificate):
    """Relative error that rounding alone leaves at each nudging strength."""
    return certificate.floor * min(certificate.beta, 1.0) / np.minimum(_strengths(certificate), 1.0)


def _headlines(certificate):
    cosine = f"{certificate.cosine:.6f}" if certificate.cosine > 0.999 else f"{certificate.cosine:.4f}"
    return (
        Headline(cosine, "cosine of the learned with the exact gradient"),
        Headline("CERTIFIED" if certificate.ok else "REFUSED", "the verdict on the gradient", certificate.ok),
    )


def _strengths(certificate):
    return np.asarray(certificate.betas) * (1.0 if certificate.beta is None else certificate.beta)


def _cosines(certificate):
    betas = _strengths(certificate)
    # What rounding leaves of 1 - cosine is noise of either sign.
    smallest = float(np.finfo(float).eps)
    apart = np.maximum(1 - np.asarray(certificate.cosines), smallest)

    def draw(axes):
        axes.plot(betas, apart, color=SERIES[0], marker="o", markersize=4)
        _log_axes(axes, certificate, apart)
        axes.set_title("1 − cosine with the exact gradient")

    described = ", ".join(f"{b:.3g}: {a:.1e}" for b, a in zip(betas, apart, strict=True))
    return Picture(
        panel(draw, name="proof-cosine", describe=f"One minus the cosine against beta. {described}."),
        f"Cosine {certificate.cosine:.8f} as trained, β = {certificate.beta:.3g} (dotted).",
    )


def _errors(certificate):
    betas, errors = _strengths(certificate), np.asarray(certificate.errors)
    floor = _floors(certificate)

    def draw(axes):
        axes.fill_between(betas, floor, 1e-18, color=SHADE, linewidth=0, label="rounding floor")
        axes.plot(betas, errors, color=SERIES[1], marker="o", markersize=4, label="measured")
        if certificate.order is not None:
            own = errors[list(certificate.betas).index(1.0)] * (betas / certificate.beta) ** certificate.order
            axes.plot(
                betas, own, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"fitted order {certificate.order:.2f}"
            )
        _log_axes(axes, certificate, np.concatenate([errors[np.isfinite(errors)], floor]))
        axes.set_title("Relative error")
        axes.legend()

    described = ", ".join(f"{b:.3g}: {e:.1e}" for b, e in zip(betas, errors, strict=True))
    return Picture(
        panel(draw, name="proof-error", describe=f"Relative error against beta. {described}."),
        "Norm of the difference over the norm of the exact gradient. Below the floor, rounding decides.",
    )


def _log_axes(axes, certificate, values):
    axes.axvline(certificate.beta, color=MUTED, linewidth=1, linestyle=":")
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel("nudging strength β")
    values = values[values > 0]
    if len(values):
        axes.set_ylim(10 ** (np.floor(np.log10(values.min())) - 0.3), 10 ** (np.ceil(np.log10(values.max())) + 0.3))


def _table(certificate):
    rows = tuple((name, f"{c:.8f}", f"{e:.1e}") for name, (c, e) in certificate.parameters.items())
    return (("parameter", "cosine", "relative error"), *rows)
