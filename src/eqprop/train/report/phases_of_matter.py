"""What a trained sensor says of Hamiltonians it has not seen, over their distance from the transition."""

import numpy as np
from jaxtyping import Float

from eqprop.train.report.figure import MUTED, SERIES, panel
from eqprop.train.report.section import Headline, Picture, Section

__all__ = ["phases_of_matter"]

NEAR = 0.1
"""Mean logarithm of the ratio of couplings within which a Hamiltonian counts as critical."""


def phases_of_matter(
    distance: Float[np.ndarray, " example"],
    wanted: Float[np.ndarray, " example"],
    answers: Float[np.ndarray, " example"],
    gaps: Float[np.ndarray, " example"],
    beta: float,
) -> Section:
    """The sensor's answers on held-out Hamiltonians.

    Args:
        distance: Mean logarithm of K over g; the transition is at 0.
        wanted: +1 in the topological phase, -1 in the trivial one.
        answers: Mean Z of the sensor.
        gaps: Between the ground state and the next. [coupling]
        beta: Nudging strength.
    """
    right = np.sign(answers) == wanted
    near = np.abs(distance) < NEAR

    def draw(axes):
        for side, label, colour in ((1, "topological", SERIES[0]), (-1, "trivial", SERIES[1])):
            these = wanted == side
            axes.scatter(distance[these], answers[these], s=10, color=colour, label=label, linewidths=0)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
        axes.axhline(0, color=MUTED, linewidth=1, linestyle=":")
        axes.set(xlabel="mean logarithm of K over g", ylabel="sensor's ⟨Z⟩", ylim=(-1.08, 1.08))
        axes.set_title("Held-out Hamiltonians")
        axes.legend(loc="upper left", handletextpad=0.2)

    text = (
        f"{right.sum()} of {right.size} held-out Hamiltonians are told right: {right[near].sum()} of the {near.sum()} "
        f"within {NEAR:g} of the transition, {right[~near].sum()} of the {(~near).sum()} others. Each has disorder in "
        "every term and a coupling of its own between neighbouring terms. The smallest gap between the ground state "
        f"and the next is {gaps.min():.3g}; the nudge, β = {beta:g} times a force of at most 2, must stay below it."
    )
    describe = (
        f"The sensor's mean Z against the distance from the transition, {right.size} points, {right.sum()} right."
    )
    critical = f"{right[near].mean():.0%}" if near.any() else "none"
    return Section(
        "Phases recognised",
        text,
        (Picture(panel(draw, name="phases", describe=describe), "Left of 0 the field prevails, right of it K."),),
        headlines=(Headline(critical, f"right within {NEAR:g} of the transition"),),
    )
