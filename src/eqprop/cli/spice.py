"""`eqprop spice`: circuits against a circuit simulator."""

from pathlib import Path
from typing import Annotated

import typer

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
            metavar="NETLIST.cir|FILE.py:NAME", help="A netlist, or a Circuit (or Network) in a Python file."
        ),
    ],
    inputs: Annotated[
        str | None, typer.Option(metavar="X,Y,...", help="Inputs of the circuit; all 1 by default.")
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
    import numpy as np

    from eqprop.bridges.compare import compare as compare_circuit
    from eqprop.settle.graph import GraphNewton

    network = _network(what)
    size = network.topology.input_size
    values = np.ones(size) if inputs is None else np.array([float(number) for number in inputs.split(",")])
    if len(values) != size:
        raise ValueError(f"`--inputs` gives {len(values)} numbers; this circuit has {size} inputs.")
    found = compare_circuit(network, values[None], GraphNewton(rtol=1e-9, atol=1e-10))
    _show(found, rows)
    good = found.difference <= tolerance
    typer.echo(
        f"largest difference {found.difference:.2e} V at node {found.worst}: "
        f"{'within' if good else 'NOT within'} {tolerance:g} V"
    )
    raise typer.Exit(0 if good else 1)


def _network(what):
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
