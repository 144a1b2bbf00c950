"""A certificate on the page: the verdict in words, its curves over beta, its table of parameters."""

import numpy as np

from eqprop.gradient.certify import Certificate
from eqprop.train.report.figure import INK, MUTED, SERIES, SHADE, log_axis, panel
from eqprop.train.report.section import Headline, Picture

__all__ = ["curves", "headlines", "table", "verdict"]


def verdict(certificate: Certificate) -> str:
    """In words, with the figures it rests on."""
    if not certificate.ok:
        return "REFUSED: " + " ".join(certificate.reasons)
    if certificate.exact:
        rule = "The error is at the rounding floor: the difference rule is exact here."
    elif certificate.order is not None:
        declared = certificate.declared_order
        rule = f"The error falls with β to the power {certificate.order:.2f}"
        rule += "." if declared is None else f"; the difference rule declares {declared}."
        if declared is not None and certificate.order < declared - 0.3:
            rule += " Kinks, where a unit reaches or leaves a bound within the nudge, cost it the rest."
    else:
        rule = _without_order(certificate)
    return (
        f"CERTIFIED: cosine {certificate.cosine:.8f}, relative error {certificate.relative_error:.1e}, within the "
        f"accepted {certificate.tolerance:g}. {rule}"
    )


def headlines(certificate: Certificate) -> tuple[Headline, Headline]:
    """Cosine and verdict."""
    cosine = f"{certificate.cosine:.6f}" if certificate.cosine > 0.999 else f"{certificate.cosine:.4f}"
    return (
        Headline(cosine, "cosine of the learned with the exact gradient"),
        Headline("CERTIFIED" if certificate.ok else "REFUSED", "the verdict on the gradient", certificate.ok),
    )


def curves(certificate: Certificate) -> tuple[Picture, Picture]:
    """Cosine and relative error over beta."""
    return _cosines(certificate), _errors(certificate)


def table(certificate: Certificate) -> tuple[tuple[str, ...], ...]:
    """Cosine and relative error of each parameter."""
    rows = tuple((name, f"{c:.8f}", f"{e:.1e}") for name, (c, e) in certificate.parameters.items())
    return (("parameter", "cosine", "relative error"), *rows)


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
