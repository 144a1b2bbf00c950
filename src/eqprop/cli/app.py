"""The commands, and how their errors are shown: one message, and an exit code.

Nothing here or in the command modules imports JAX at the top, so that `eqprop --help` answers at once.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from eqprop.cli import check, data, doctor, gdu, predict, report, spice, train

__all__ = ["app", "main"]

app = typer.Typer(
    name="eqprop",
    help="Train any physical system that minimises a scalar, by its equilibria. Begin with `eqprop train digits`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of all commands; `main` has dealt with them."""


app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("report")(report.report)
app.command("check")(check.check)
app.command("gdu")(gdu.gdu)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(spice.app, name="spice")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: As typed after `eqprop`; the process's own by default.

    Returns:
        0 if it worked, 1 if it failed, 2 if it was asked the wrong way, 130 if it was interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(words, prog_name="eqprop")
    except SystemExit as exit_request:
        code = exit_request.code
        return code if isinstance(code, int) else int(code is not None)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"Error: {_message(error)}", err=True)
        if not debug and not _expected(error):
            typer.echo("This looks like a bug in eqprop; `--debug` shows where it happened.", err=True)
        return 2 if type(error).__name__ == "ConfigError" else 1
    return 0


def _message(error):
    # Equinox wraps the message of an error raised on the device in advice on its own switches.
    text = str(error).strip()
    for marker in ("\n\n--------------------", "\n--------------------"):
        text = text.split(marker)[0]
    return text if _expected(error) and text else f"{type(error).__name__}: {text}"


def _expected(error):
    """Whether the error is one that the library raises with a message for people."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ValueError", "RuntimeError", "OSError", "ImportError"}) and "JaxRuntimeError" not in names
