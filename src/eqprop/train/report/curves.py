"""Learning curves: errors, cost, and what went wrong with settling, epoch by epoch."""

from eqprop.train.report.figure import SERIES, panel
from eqprop.train.report.section import Headline, LeftOut, Picture, Section
from eqprop.train.report.study import Study

__all__ = ["learning_curves"]


def learning_curves(study: Study) -> Section:
    """Errors, costs, unsettled and saturated fractions, steps of the solver."""
    rows = study.run.metrics
    if not rows:
        raise LeftOut("no epoch is finished yet")
    percent, plain = 100.0, 1.0
    wanted = (
        ("error", "Errors [%]", percent, {"train_error": "training", "test_error": "test"}),
        ("cost", "Cost", plain, {"train_cost": "training", "test_cost": "test"}),
        ("steps", "Solver steps an example", plain, {"free_steps": "free phase", "nudged_steps": "nudged phases"}),
        (
            "failed",
            "Left out of learning [%]",
            percent,
            {"unsettled": "unsettled", "saturated": "saturated outputs", "dead": "of the wrong ones, without contrast"},
        ),
    )
    pictures = [
        Picture(_curves(rows, name, title, scale, curves), _caption(name, rows))
        for name, title, scale, curves in wanted
        if any(measure in rows[-1] for measure in curves)
    ]
    return Section(
        "Learning curves", _text(rows, study.config.epochs), tuple(pictures), headlines=(_headline(rows[-1]),)
    )


def _curves(rows, name, title, scale, curves):
    def draw(axes):
        for colour, (measure, label) in zip(SERIES, curves.items(), strict=False):
            points = [(row["epoch"], scale * row[measure]) for row in rows if measure in row]
            if points:
                # A single epoch is no line.
                marker = "o" if len(points) < 4 else ""
                axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, clip_on=False)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        highest = max(scale * row[measure] for row in rows for measure in curves if measure in row)
        # Nothing at all is drawn as nothing, not as a magnified zero.
        axes.set_ylim(0, None if highest > 0 else 1)
        if len(rows) == 1:
            # Else the axis would be cut into hundredths of an epoch.
            axes.set_xlim(rows[0]["epoch"] - 1, rows[0]["epoch"] + 1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    last = ", ".join(f"{label} {scale * rows[-1][m]:.3g}" for m, label in curves.items() if m in rows[-1])
    return panel(draw, name=f"curves-{name}", describe=f"{title} against epoch; at the end: {last}.")


def _caption(name, rows):
    if name == "failed" and "dead" in rows[-1]:
        return "Wrong answers without contrast lie in the dead zone: β is a margin there, and too small."
    if name == "failed" and "saturated" not in rows[-1]:
        return "Outputs of this system have no bounds, so they cannot saturate."
    return {
        "error": "Training errors are counted while the weights still change.",
        "failed": "Unsettled examples are never learned from. Outputs at a bound have a gradient of zero.",
    }.get(name, "")


def _text(rows, epochs):
    seconds = sum(row["seconds"] for row in rows)
    text = f"{len(rows)} of {epochs} epochs in {seconds:.1f} s of training ({seconds / len(rows):.2f} s an epoch"
    if "evaluation_seconds" in rows[0]:
        text += f", testing {sum(row['evaluation_seconds'] for row in rows):.1f} s in all"
    text += ")."
    if "test_error" in rows[-1]:
        best = min(rows, key=lambda row: row["test_error"])
        text += (
            f" Test error at the end {100 * rows[-1]['test_error']:.2f} %; the lowest was "
            f"{100 * best['test_error']:.2f} %, after epoch {best['epoch']} (not used to choose anything)."
        )
    return text


def _headline(last):
    if "test_error" in last:
        return Headline(f"{100 * (1 - last['test_error']):.1f} %", "test accuracy")
    name = "test_cost" if "test_cost" in last else "train_cost"
    return Headline(f"{last[name]:.4g}", name.replace("_", " "))
