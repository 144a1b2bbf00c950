"""`eqprop spice`: circuits against a circuit simulator."""

from pathlib import Path
from typing import Annotated

import typer

from eqprop.cli.command import command

__all__ = ["app"]

app = typer.Typer(help="Circuits and ngspice.", no_args_is_help=True)


@app.callback()
def _spice() -> None:
    """Circuits and ngspice."""


@app.command("compare")
def compare(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NETLIST.cir|FILE.py:NAME|RUN",
            help="A netlist, a Circuit (or Network) in a Python file, or the folder of a trained run.",
        ),
    ],
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,...", help="Inputs of the circuit; by default the first test example of a run, else all 1."
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest difference accepted. [V]")] = 1e-9,
    rows: Annotated[int, typer.Option(min=0, help="Nodes shown, the worst first.")] = 10,
) -> None:
    """Solve a circuit here and with ngspice, and show the node voltages side by side.

    Exit code 1 if they differ by more than the tolerance.
    """
    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax()
    set_precision("float64")

    from eqprop.bridges.compare import compare as compare_circuit
    from eqprop.settle.graph import GraphNewton

    network, first = _network(what)
    values = _inputs(network, first, inputs)
    found = compare_circuit(network, values[None], GraphNewton(rtol=1e-9, atol=1e-10))
    _show(found, rows)
    good = found.difference <= tolerance
    typer.echo(
        f"largest difference {found.difference:.2e} V at node {found.worst}: "
        f"{'within' if good else 'NOT within'} {tolerance:g} V"
    )
    raise typer.Exit(0 if good else 1)


@app.command("export")
def export(
    what: Annotated[
        str,
        typer.Argument(metavar="RUN|FILE.py:NAME", help="A trained run, or a Circuit (or Network) in a Python file."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.cir", help="Where to write; to the terminal by default.")
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,...", help="Inputs of the circuit; by default the first test example of a run, else all 1."
        ),
    ] = None,
) -> None:
    """Write a circuit, with its trained conductances, as a netlist that any SPICE loads."""
    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax()
    set_precision("float64")
    from eqprop.bridges.spice import to_spice

    network, first = _network(what)
    text = to_spice(network, _inputs(network, first, inputs), title=f"{what}, by eqprop")
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Cannot write {out}: {error.strerror}. Choose another with `--out`.") from error
    typer.echo(f"{out}: {len(network.topology.units)} free nodes; next: {command('spice', 'compare', out)}")


def _inputs(network, first, given):
    """The inputs as typed, else those of a run's first test example, else ones."""
    import numpy as np

    size = network.topology.input_size
    if given is None:
        return np.ones(size) if first is None else np.asarray(first, float).reshape(-1)
    values = np.array([float(number) for number in given.split(",")])
    if len(values) != size:
        raise ValueError(f"`--inputs` gives {len(values)} numbers; this circuit has {size} inputs.")
    return values


def _network(what):
    """The circuit, and the inputs of an example where there is one."""
    if Path(what).is_dir():
        return _of_run(what)
    return _of_file(what), None


def _of_run(folder):
    from eqprop.train.run import Run

    run = Run(folder)
    network = run.config.recipe.trained_circuit(run)
    if network is None:
        raise ValueError(f"{folder} trained a `{type(run.system).__name__}`, which is no circuit.")
    test = run.experiment().test
    return network, None if test is None else test[0][0]


def _of_file(what):
    from eqprop.bridges.netlist_text import read_netlist
    from eqprop.bridges.spice import from_spice
    from eqprop.cli.check import load_object
    from eqprop.substrates.circuit.netlist import Circuit
    from eqprop.substrates.circuit.network import Network

    if ":" not in what:
        path = Path(what)
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        text = path.read_text(encoding="utf-8")
        cards = read_netlist(text).cards
        held = {card.nodes[0] for card in cards if card.name[0].lower() == "v" and card.nodes[1] == "0"}
        free = [node for card in cards for node in card.nodes if node != "0" and node not in held]
        if not free:
            raise ValueError(f"{path} has no free node; there is nothing to solve.")
        # Of a foreign netlist only the voltages are wanted; any free node will do for an output.
        return from_spice(text, outputs=free[:1]).compile()
    found = load_object(what)
    found = found() if callable(found) and not isinstance(found, Circuit | Network) else found
    if isinstance(found, Circuit):
        return found.compile()
    if not isinstance(found, Network):
        raise ValueError(
            f"`{what}` is a {type(found).__name__}; point at a Circuit, a Network, or a function that makes one."
        )
    return found


def _show(found, rows):
    from rich.console import Console
    from rich.table import Table

    difference = abs(found.ours[0] - found.theirs[0])
    table = Table(title="Node voltages, V", title_justify="left")
    for heading in ("node", "here", "ngspice", "difference"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for k in sorted(range(1, len(found.names)), key=lambda k: -difference[k])[:rows]:
        table.add_row(found.names[k], f"{found.ours[0, k]:.15g}", f"{found.theirs[0, k]:.15g}", f"{difference[k]:.1e}")
    Console(highlight=False, soft_wrap=True).print(table)
