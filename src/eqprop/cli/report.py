"""`eqprop report`: one HTML file about a run."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as printed by `eqprop train`.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Processors to use; all by default.")] = None,
) -> None:
    """Write a report: learning curves, how phases settle, and whether the gradient was the true one."""
    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax(threads)
    set_precision("float64")
    from eqprop.train.report import write_report

    typer.echo(f"report {write_report(run)}")
