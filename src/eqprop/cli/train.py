"""`eqprop train`: from a name to a trained system."""

import math
import signal
import statistics
import time
from pathlib import Path
from typing import Annotated

import typer

from eqprop.cli.command import command

__all__ = ["train"]


def train(
    config: Annotated[
        str | None,
        typer.Argument(metavar="NAME|CONFIG.toml", help="A preset such as `digits`, or a configuration file."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: `optimiser.learning_rate=0.1`."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train so many seeds, one after the other.")] = 1,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue a run folder.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where run folders go.")] = Path("runs"),
    threads: Annotated[int | None, typer.Option(min=1, help="Processors to use; all by default.")] = None,
) -> None:
    """Train a system, and say how well it does on data it has not seen."""
    if (config is None) == (resume is None):
        from eqprop.cli.presets import preset_names

        raise typer.BadParameter(f"give a preset ({', '.join(preset_names())}), a .toml file, or `--resume RUN`.")
    if resume is not None and (overrides or seeds != 1):
        raise typer.BadParameter("a resumed run keeps its configuration: leave out `--set` and `--seeds`.")

    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax(threads)
    from eqprop.train.config import load_config
    from eqprop.train.run import Run, new_run

    if resume is not None:
        set_precision(Run(resume).config.precision)
        _finish([_train_one(resume, None)])
        return
    settings = load_config(config, overrides or ())
    set_precision(settings.precision)
    runs, experiment = [], None
    for seed in range(settings.seed, settings.seed + seeds):
        own = settings.model_copy(update={"seed": seed})
        experiment = _experiment(own, experiment)
        folder = new_run(own, out)
        if seeds > 1:
            typer.echo(f"seed {seed}: {folder}")
        runs.append(_train_one(folder, experiment))
    _finish(runs)


def _experiment(settings, before):
    """The experiment; for a further seed the one before with a new system, so that nothing is compiled anew."""
    import equinox as eqx

    fresh = settings.build()
    return fresh if before is None else eqx.tree_at(lambda e: e.system, before, fresh.system)


def _train_one(folder, experiment):
    from eqprop.cli.progress import TrainingProgress
    from eqprop.train.run import Run, continue_run

    settings = Run(folder).config
    asked = []

    def interrupt(number, _frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        typer.echo("Stopping at the next step and saving; Ctrl-C again to leave at once.", err=True)

    before = signal.signal(signal.SIGINT, interrupt)
    began = time.monotonic()
    try:
        with TrainingProgress(settings.epochs, settings.batch_size) as progress:
            outcome = continue_run(folder, experiment=experiment, watch=progress, stop=lambda: bool(asked))
    finally:
        signal.signal(signal.SIGINT, before)
    if not outcome.finished:
        typer.echo(
            f"Saved after {time.monotonic() - began:.0f} s. Continue with: {command('train', '--resume', folder)}"
        )
        raise typer.Exit(130)
    return outcome.run


def _finish(runs):
    """The last lines: the figure, the folder, what to type next."""
    last = [run.metrics[-1] for run in runs]
    name = "test_error" if "test_error" in last[0] else ("test_cost" if "test_cost" in last[0] else "train_cost")
    values = [100 * (1 - row[name]) if name == "test_error" else row[name] for row in last]
    if len(values) > 1:
        spread = statistics.stdev(values)
        shown = ", ".join(f"{value:.2f}" for value in values)
        typer.echo(
            f"{len(values)} seeds: {shown}; standard deviation {spread:.2f}, "
            f"standard error of the mean {spread / math.sqrt(len(values)):.2f}"
        )
    mean = statistics.fmean(values)
    typer.echo(f"test accuracy {mean:.1f} %" if name == "test_error" else f"{name.replace('_', ' ')} {mean:.6g}")
    for run in runs:
        typer.echo(f"run folder {run.folder}")
    typer.echo(f"next: {command('report', runs[-1].folder)}")
