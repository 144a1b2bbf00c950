"""`eqprop data`: data sets."""

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Data sets: fetch those that are missing.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Data sets."""


@app.command("fetch")
def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="mnist, fashion-mnist, or time series: italy-power, gunpoint, ...")
    ],
) -> None:
    """Download a data set, verify its checksums and store it."""
    from eqprop.train.data import fetch as fetch_data

    typer.echo(f"{name} is in {fetch_data(name)}")
