"""The page: all sections, in one file that needs nothing else."""

import datetime
import re
from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from eqprop.gradient.estimate import batch_size
from eqprop.train import checkpoint
from eqprop.train.report.curves import learning_curves
from eqprop.train.report.pictures import confusion, mistakes, weights
from eqprop.train.report.proof import gradient_proof
from eqprop.train.report.provenance import provenance
from eqprop.train.report.section import LeftOut, Section
from eqprop.train.report.settling import settling
from eqprop.train.report.study import Study
from eqprop.train.report.updates import updates
from eqprop.train.run import Run

__all__ = ["make_sections", "write_report"]

_BEFORE: dict[str, Callable[[Study], Section]] = {
    "Learning curves": learning_curves,
    "Is the gradient the true one?": gradient_proof,
    "How phases settle": settling,
    "Updates beside backpropagation through time": updates,
}
_AFTER: dict[str, Callable[[Study], Section]] = {
    "First-layer weights": weights,
    "Examples got wrong": mistakes,
    "Confusions": confusion,
    "Settings, versions, seed": provenance,
}


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder: one file that loads nothing, for any browser.

    The gradient is judged in the precision that JAX is set to; the command line sets float64.

    Args:
        run_folder: As printed by `eqprop train`.

    Returns:
        The file.

    Raises:
        ConfigError: if it is no run folder.
        CheckpointError: if its checkpoint is missing or damaged, or the file cannot be written.
    """
    study = Study(Run(run_folder))
    made, left_out = make_sections(study)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"prose": _prose, "slug": _slug, "markup": Markup}
    page = environment.get_template("page.html.jinja").render(
        title=study.config.name,
        summary=_summary(study),
        headlines=[headline for section in made for headline in section.headlines],
        sections=made,
        left_out=left_out,
        written=datetime.datetime.now().strftime("%d %B %Y, %H:%M"),
        folder=study.run.folder.name,
    )
    path = study.run.folder / "report.html"
    checkpoint.write_bytes(path, page.encode())
    return path


def make_sections(study: Study) -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections that apply to a run, its recipe's own among them; and the others, each with a sentence why not."""
    made, left_out = [], []

    def attempt(title, make):
        try:
            made.extend(make())
        except LeftOut as reason:
            left_out.append((title, f"{reason}."))
        # One part that fails for an unusual system must not cost the reader the others; it is told, not hidden.
        except Exception as error:
            first_line = str(error).strip().split("\n")[0]
            left_out.append((title, f"could not be made ({type(error).__name__}: {first_line})."))

    # A run without weights has no report: this error is the reader's to know.
    _ = study.experiment
    for title, section in _BEFORE.items():
        attempt(title, lambda section=section: [section(study)])
    attempt(f"Sections of `{study.config.recipe.kind}`", lambda: study.config.recipe.report_sections(study.run))
    for title, section in _AFTER.items():
        attempt(title, lambda section=section: [section(study)])
    # A recipe may make a section of its own under a title that does not apply as it is.
    titles = {section.title for section in made}
    return made, [(title, why) for title, why in left_out if title not in titles]


def _summary(study):
    """What was trained, in a sentence."""
    experiment, config = study.experiment, study.config
    system = type(experiment.system).__name__
    data = "its recipe's own data" if config.data is None else f"{config.data.name}"
    parts = [f"A `{system}` with {study.parameters:,} parameters and {study.units:,} units, trained on {data}"]
    if experiment.resident:
        parts.append(f" ({batch_size(experiment.train[0]):,} examples)")
    parts.append(f" by `{type(experiment.propagate).__name__}` for {study.run.epochs_done} of {config.epochs} epochs")
    return "".join(parts) + "."


def _prose(text: str) -> Markup:
    """Paragraphs, with `code` between backticks."""
    paragraphs = [
        re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(part))) for part in text.strip().split("\n\n") if part
    ]
    return Markup("".join(f"<p>{paragraph}</p>" for paragraph in paragraphs))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
