"""Learned strengths of regularisation beside a search over a fine grid."""

import numpy as np
from jaxtyping import Float

from eqprop.train.report.figure import INK, MUTED, SERIES, panel
from eqprop.train.report.section import Headline, Picture, Section

__all__ = ["regularisation"]


def regularisation(
    learned: Float[np.ndarray, " strength"],
    reached: dict[str, float],
    grid: Float[np.ndarray, " point"],
    found: dict[str, Float[np.ndarray, " point"]],
) -> Section:
    """The learned logarithms of strengths, against one strength for all weights from a grid.

    Args:
        learned: Logarithms, one for all weights or one for each.
        reached: Errors on "validation" and "test" with the learned strengths.
        grid: Logarithms tried.
        found: Their errors.
    """
    best = int(found["validation"].argmin())
    ratio = reached["validation"] / found["validation"][best]

    def draw(axes):
        for colour, (name, errors) in zip(SERIES, found.items(), strict=False):
            axes.plot(grid, errors, color=colour, label=name)
            axes.axhline(reached[name], color=colour, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvline(grid[best], color=MUTED, linewidth=1, linestyle=":")
        if learned.size == 1:
            axes.plot(learned, [reached["validation"]], "o", color=INK, label="learned")
        axes.set(xlabel="logarithm of one strength for all weights", ylabel="half mean squared error")
        axes.set_title("A grid, and what was learned (dashed)")
        axes.legend()

    def draw_strengths(axes):
        axes.bar(range(learned.size), np.sort(learned)[::-1], color=SERIES[0], width=1.0)
        axes.axhline(grid[best], color=MUTED, linewidth=1, linestyle=":")
        axes.set(xlabel="weight, in order", ylabel="logarithm of its strength")
        axes.set_title("Learned strengths; dotted the best single one")

    describe = f"Errors over {grid.size} strengths; lowest on validation data at {grid[best]:.2f}."
    pictures = [Picture(panel(draw, name="grid", describe=describe))]
    if learned.size > 1:
        told = f"{learned.size} learned strengths, from {learned.min():.2f} to {learned.max():.2f}."
        pictures.append(Picture(panel(draw_strengths, name="strengths", describe=told)))
    text = (
        f"A grid of {grid.size} strengths, the same for all weights, has its lowest validation error at "
        f"{grid[best]:.2f} (natural logarithm): {found['validation'][best]:.6f}. Learned: {_list(learned)}, with "
        f"{reached['validation']:.6f}, {ratio:.5f} times that; on the test data, {reached['test']:.6f} against "
        f"{found['test'][best]:.6f} with the grid's best."
    )
    return Section(
        "Beside a grid",
        text,
        tuple(pictures),
        headlines=(Headline(f"{ratio:.5f}", "validation error, over the best of the grid", bool(ratio < 1.01)),),
    )


def _list(learned):
    if learned.size == 1:
        return f"{learned[0]:.4f}"
    return f"one for each of {learned.size} weights, {learned.min():.2f} to {learned.max():.2f}"
