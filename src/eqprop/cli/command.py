"""The line to type next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["command"]


def command(*arguments: object) -> str:
    """How the user would call this program again: `eqprop` where the shell finds it, else its path."""
    here = Path(sys.argv[0])
    program = "eqprop" if here.name != "eqprop" or _found(here) else os.path.relpath(here)
    return shlex.join([program, *map(str, arguments)])


def _found(program):
    """Whether the shell, asked for `eqprop`, runs this very program."""
    path = shutil.which("eqprop")
    return path is not None and Path(path).samefile(program)
