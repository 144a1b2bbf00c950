"""`eqprop gdu`: equilibrium propagation beside backpropagation through time, step by step."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["gdu"]


def gdu(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|CONFIG.toml|FILE.py:NAME",
            help="A preset, a configuration, or a function that returns (system, cost, inputs, targets).",
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the configuration.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the nudged phase, and backwards in time.")] = 10,
    beta: Annotated[float, typer.Option(help="Nudging strength.")] = 0.1,
    examples: Annotated[int, typer.Option(min=1, help="Training examples to take.")] = 5,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the plot goes: .png, .svg or .pdf.")] = Path(
        "gdu.png"
    ),
) -> None:
    """Compare the updates of equilibrium propagation with the gradients of backpropagation through time, at each step.

    Exit code 1 if they differ in the limit of no nudging.
    """
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"the plot is written as .png, .svg or .pdf; got {out}.")
    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax()
    set_precision("float64")
    import jax
    from rich.console import Console
    from rich.table import Table

    from eqprop.gradient.gdu import compare_updates, plot_updates
    from eqprop.gradient.stencil import one_sided, symmetric

    system, cost, inputs, targets = _task(what, overrides or [])
    inputs, targets = jax.tree.map(lambda leaf: leaf[:examples], (inputs, targets))
    table = Table(
        title=f"Updates of {type(system).__name__} against backpropagation through time", title_justify="left"
    )
    for heading in ("nudge", "parameters: error", "RMS", "signs agree", "states: error"):
        table.add_column(heading, justify="left" if heading == "nudge" else "right")
    rules = {"in the limit": None, f"one-sided, {beta:g}": one_sided(beta), f"symmetric, ±{beta:g}": symmetric(beta)}
    found = {}
    for name, stencil in rules.items():
        found[name] = both = compare_updates(system, cost, inputs, targets, steps=steps, stencil=stencil)
        table.add_row(
            name,
            f"{float(both.relative_error):.2e}",
            f"{float(both.relative_rms):.2e}",
            f"{100 * float(both.sign_agreement):.2f} %",
            f"{float(both.state_relative_error):.2e}",
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    limit = found["in the limit"]
    settled = int(limit.settled.sum())
    console.print(f"{settled} of {len(limit.settled)} free phases settled, {steps} steps")
    *_, last = found.values()
    plot_updates(last).savefig(out, dpi=150)
    console.print(f"plot: {out}")
    right = settled == len(limit.settled) and float(limit.relative_error) < 1e-6
    console.print("right: the updates are the gradients" if right else "NOT right: the updates are not the gradients")
    raise typer.Exit(0 if right else 1)


def _task(what, overrides):
    """System, cost, inputs, targets."""
    if ".py:" in what:
        from eqprop.cli.check import load_object

        found = load_object(what)
        parts = found() if callable(found) else found
        if not isinstance(parts, tuple) or len(parts) < 4:
            raise ValueError(f"`{what}` must be a function that returns (system, cost, inputs, targets).")
        return parts[:4]
    from eqprop.train.config import load_config

    experiment = load_config(what, overrides).build()
    if not experiment.resident:
        raise ValueError(f"The training data of `{what}` are no arrays in memory; `gdu` needs a few examples of them.")
    return experiment.system, experiment.cost, *experiment.train
