"""What can be seen: first-layer weights, examples got wrong, and which class is taken for which."""

import equinox as eqx
import jax
import numpy as np

from eqprop.train.report.figure import GRID, INK, MUTED, SERIES, image, mosaic, panel, signed
from eqprop.train.report.section import LeftOut, Picture, Section
from eqprop.train.report.study import Study

__all__ = ["confusion", "mistakes", "weights"]

SHOWN_UNITS, SHOWN_MISTAKES = 60, 12


def weights(study: Study) -> Section:
    """The weights from the image to the units of the first layer."""
    shape = study.picture_shape
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(study.experiment.system, eqx.is_inexact_array))
    fitting = [(path, leaf) for path, leaf in arrays if leaf.ndim == 2 and leaf.shape[0] == shape[0] * shape[1]]
    if not fitting:
        raise LeftOut("no parameter joins every pixel with units of a first layer")
    path, matrix = fitting[0]
    matrix = np.asarray(matrix)
    strongest = np.argsort(-np.linalg.norm(matrix, axis=0), kind="stable")[:SHOWN_UNITS]
    tiles = matrix[:, strongest].T.reshape(-1, *shape)
    limit = float(np.quantile(np.abs(tiles), 0.995))
    name = jax.tree_util.keystr(path).lstrip(".")
    pixels = mosaic(signed(tiles, limit), columns=12)
    describe = f"{len(tiles)} small pictures of {name}, one for each unit."
    return Section(
        "First-layer weights",
        f"`{name}`: what each unit looks for, one picture a unit, for the {len(tiles)} of {matrix.shape[1]} units with "
        f"the strongest weights. Red excites, blue inhibits; full colour at ±{limit:.2g}.",
        (Picture(image(pixels, describe=describe, kind="wide")),),
    )


def mistakes(study: Study) -> Section:
    """Test examples got wrong, with the scores that led there."""
    shape, judged = study.picture_shape, study.judged
    predicted = np.argmax(judged.scores, axis=1)
    wrong = np.flatnonzero((predicted != judged.labels) & judged.settled)
    if not len(wrong):
        raise LeftOut(f"none of the {len(predicted)} test examples is got wrong")
    # Surest mistakes first: they say most.
    lead = judged.scores[wrong, predicted[wrong]] - judged.scores[wrong, judged.labels[wrong]]
    shown = wrong[np.argsort(-lead, kind="stable")][:SHOWN_MISTAKES]
    pictures = tuple(_mistake(study, shape, judged, int(index), int(predicted[index])) for index in shown)
    return Section(
        "Examples got wrong",
        f"{len(wrong)} of {len(predicted)} test examples{_part(study, predicted)}; the {len(shown)} surest mistakes. "
        "Bars are the scores of the classes: orange the prediction, blue the right answer.",
        pictures,
    )


def _mistake(study, shape, judged, index, predicted):
    right, scores = int(judged.labels[index]), judged.scores[index]
    pixels = study.data.test_inputs[index].reshape(shape)
    low, high = float(pixels.min()), float(pixels.max())
    grey = (255 * (1 - (pixels - low) / max(high - low, 1e-12))).astype(np.uint8)

    def draw(axes):
        colours = [SERIES[1] if k == predicted else SERIES[0] if k == right else MUTED for k in range(len(scores))]
        axes.bar(range(len(scores)), scores, color=colours, width=0.75)
        axes.axhline(0, color=GRID, linewidth=0.8)
        axes.set_xticks(range(len(scores)) if len(scores) <= 12 else [])
        axes.set_yticks([])
        axes.tick_params(length=0, labelsize=10)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)

    bars = panel(
        draw,
        name=f"mistake-{index}",
        describe="Scores: " + ", ".join(f"{k}: {s:.2f}" for k, s in enumerate(scores)),
        size=(2.2, 1.3),
        decimals=1,
    )
    picture = image(grey, describe=f"Test example {index}, a {right}.", kind="ink")
    return Picture(
        f'<div class="mistake">{picture}{bars}</div>',
        f"{predicted} instead of {right} (example {index}; scores {scores[predicted]:.2f} and {scores[right]:.2f})",
    )


def confusion(study: Study) -> Section:
    """How often each class is taken for each other one."""
    judged = study.judged
    classes = judged.scores.shape[1]
    if classes > 20:
        raise LeftOut(f"{classes} classes are too many for a table of confusions")
    predicted = np.argmax(judged.scores, axis=1)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (judged.labels[judged.settled], predicted[judged.settled]), 1)
    right = int(np.trace(counts))
    off = counts - np.diag(np.diag(counts))
    unsettled = int((~judged.settled).sum())
    text = (
        f"{right} of {len(predicted)} test examples{_part(study, predicted)} are right, "
        f"{100 * right / len(predicted):.2f} %."
    )
    if unsettled:
        text += f" {unsettled} did not settle, count as wrong and are not in the table."
    if off.any():
        actual, taken = np.unravel_index(np.argmax(off), off.shape)
        text += f" The most frequent confusion: {actual} taken for {taken}, {off.max()} times."
    return Section("Confusions", text, (_table_picture(counts, off),))


def _table_picture(counts, off):
    def draw(axes):
        for row in range(len(counts)):
            for column, count in enumerate(counts[row]):
                colour = SERIES[0] if row == column else SERIES[1]
                share = count / max(counts[row].sum(), 1) if row == column else count / max(off.max(), 1)
                if count:
                    axes.add_patch(_cell(column, row, colour, 0.12 + 0.5 * share))
                    axes.text(column, row, str(count), ha="center", va="center", fontsize=8 if count < 1000 else 6.5)
        axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="predicted", ylabel="actual")
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)

    describe = f"Table of {counts.sum()} examples by actual and predicted class, {np.trace(counts)} on the diagonal."
    return Picture(panel(draw, name="confusion", describe=describe, size=(4.2, 4.2), decimals=1))


def _cell(column, row, colour, opacity):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=colour, alpha=opacity, linewidth=0)


def _part(study, predicted):
    total = len(study.data.test_targets)
    return "" if len(predicted) == total else f" (the first; of {total} in all, as many as fit in the time of a report)"
