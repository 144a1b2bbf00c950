"""The command line: `eqprop train digits`."""

from eqprop.cli.app import main

__all__ = ["main"]
