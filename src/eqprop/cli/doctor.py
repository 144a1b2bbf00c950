"""`eqprop doctor`: what is installed, what is missing, and what brings it."""

import os
import shutil

import typer

__all__ = ["doctor"]


def doctor() -> None:
    """Print versions, devices, data sets and helpers found, and what to install for the rest."""
    from eqprop.cli.jax_settings import cache_folder, set_up_jax

    set_up_jax()
    import jax

    from eqprop.train.config import versions

    for name, version in versions().items():
        typer.echo(f"{name:<10} {version}")
    typer.echo("")
    typer.echo(f"devices    {', '.join(str(device) for device in jax.devices())}")
    typer.echo(f"processors {len(os.sched_getaffinity(0))} of {os.cpu_count()}")
    typer.echo(
        f"precision  {'float64' if jax.config.read('jax_enable_x64') else 'float32'}; `check` and `report` use float64"
    )
    typer.echo(f"cache      {os.environ.get('JAX_COMPILATION_CACHE_DIR', cache_folder())}")
    typer.echo("")
    for line in _data_lines():
        typer.echo(line)
    typer.echo("")
    typer.echo(_program("ngspice", ("ngspice",), "circuits in a simulator", "sudo apt-get install ngspice libngspice0"))
    typer.echo(
        _program(
            "chromium",
            ("chromium", "chromium-browser", "google-chrome"),
            "tests of reports",
            "sudo apt-get install chromium",
        )
    )


def _data_lines():
    import importlib.util

    from eqprop.train.data import KNOWN, find
    from eqprop.train.data.ts import SERIES, find_series

    for name, entry in KNOWN.items():
        if entry.files:
            folder = find(name)
            found = f"in {folder}" if folder is not None else None
        else:
            found = "comes with scikit-learn" if importlib.util.find_spec("sklearn") else None
        yield f"{name:<14} {found or f'missing; bring it: {entry.bring}'}"
    for name in SERIES:
        folder = find_series(name)
        yield f"{name:<14} {f'in {folder}' if folder else f'missing; bring it: `eqprop data fetch {name}`'}"


def _program(name, candidates, purpose, command):
    path = next((path for candidate in candidates if (path := shutil.which(candidate))), None)
    return f"{name:<14} {path}" if path else f"{name:<14} missing (for {purpose}); bring it: {command}"
