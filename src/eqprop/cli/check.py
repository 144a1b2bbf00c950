"""`eqprop check`: is a user's own system fit for equilibrium propagation?"""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["check", "load_object"]


def check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME",
            help="A System, or a function that returns (system, cost, inputs, targets[, propagate]).",
        ),
    ],
) -> None:
    """Check your own system: does it settle, is its coupling reciprocal, is the estimated gradient the true one?

    Of a system in motion (a path of a Lagrangian, a Hamiltonian): conserved energy, reversibility, order of the
    integrator, and the gradient. Spins, and systems with a sampler in their estimator, are checked as distributions:
    are the samples those of the energy, is the gradient the true one within its noise. Exit code 1 if it is not right.
    """
    from eqprop.cli.jax_settings import set_precision, set_up_jax

    set_up_jax()
    set_precision("float64")
    found = load_object(what)
    from eqprop.motion import Chain, Hamiltonian
    from eqprop.substrates.trajectory import Lagrangian
    from eqprop.system import System
    from eqprop.train.check import Checked, check_system
    from eqprop.train.check_ensemble import check_ensemble, is_stochastic

    if isinstance(found, Lagrangian):
        raise ValueError(
            f"`{what}` is a Lagrangian, which moves only once something holds at its ends: point at "
            "`Path(lagrangian, FixedEnds(...), steps=..., duration=...)`, or at a function that returns (path, cost, "
            "inputs, targets)."
        )
    if isinstance(found, type) or not (isinstance(found, System) or callable(found)):
        raise ValueError(
            f"`{what}` is {found if isinstance(found, type) else type(found).__name__}; point at a System "
            "instance, or at a function that returns (system, cost, inputs, targets) or (system, cost, inputs, "
            "targets, propagate)."
        )
    parts = (found,) if isinstance(found, System) else found()
    parts = parts if isinstance(parts, tuple) else (parts,)
    if len(parts) not in (1, 4, 5) or not isinstance(parts[0], System):
        raise ValueError(
            f"`{what}` returned {len(parts)} things; it must return (system, cost, inputs, targets) or "
            "(system, cost, inputs, targets, propagate), the system first."
        )
    if isinstance(parts[0], Chain | Hamiltonian):
        motion = _check_motion(*parts)
        typer.echo(f"Motion of {type(parts[0]).__name__}, float64\n{motion}")
        typer.echo(_verdict(motion.ok))
        raise typer.Exit(0 if motion.ok else 1)
    console = Console(highlight=False, soft_wrap=True)
    if is_stochastic(parts[0], parts[4] if len(parts) == 5 else None):
        result = check_ensemble(*parts)
        _show_ensemble(console, type(parts[0]).__name__, result)
    else:
        result = check_system(*parts)
        _show(console, type(parts[0]).__name__, result)
    for warning in result.warnings:
        console.print(f"warning: {warning}", markup=False)
    for problem in dict.fromkeys(result.problems):
        console.print(f"problem: {problem}", markup=False)
    if isinstance(result, Checked) and result.solver is not None and result.beta is not None:
        console.print(f"take: solver {result.solver}, beta = {result.beta:.3g}")
    console.print(_verdict(result.ok))
    raise typer.Exit(0 if result.ok else 1)


def _verdict(ok):
    return "right: learning follows the true gradient" if ok else "NOT right: see the problems above"


def _check_motion(system, cost=None, inputs=None, targets=None, propagate=None):
    from eqprop.train.motion import check_motion

    return check_motion(system, inputs, cost, targets, propagate=propagate)


def load_object(what: str):
    """The object NAME of FILE.py.

    Raises:
        ValueError: if there is no such file or name.
    """
    file, colon, name = what.rpartition(":")
    if not colon or not file or not name:
        raise ValueError(f"`{what}` must read FILE.py:NAME.")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # A script may import its neighbours, as if it were run.
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{path} defines no `{name}`; it defines: {', '.join(names)}.")
    return getattr(module, name)


def _show(console, name, result):
    table = Table(title=f"Settling of {name}, free phase, float64", title_justify="left")
    for heading in ("solver", "settled", "steps", "time", "same rest state"):
        table.add_column(heading, justify="left" if heading == "solver" else "right")
    for trial in result.trials:
        if trial.problem:
            table.add_row(trial.name, "does not apply", "", "", trial.problem[:60])
            continue
        same = "-" if trial.settled < 1 else ("yes" if trial.distance < 1e-3 else f"no ({trial.distance:.0e})")
        table.add_row(
            trial.name, f"{100 * trial.settled:.0f} %", f"{trial.steps:.0f}", f"{1e3 * trial.seconds:.2f} ms", same
        )
    console.print(table)
    if result.certificate is not None:
        console.print(
            f"coupling: asymmetry {result.asymmetry:.1e} "
            f"({'reciprocal' if result.asymmetry < 1e-5 else 'NOT reciprocal'})"
        )
        _show_certificate(console, result.certificate)


def _show_ensemble(console, name, result):
    console.print(f"Sampling of {name} at T = {result.temperature:g} by {result.sampler}, free phase, float64")
    console.print(f"reference: {result.reference}")
    table = Table(title="Largest deviation, in standard errors", title_justify="left")
    for heading in ("of", "found", f"once in 1000: {result.scores_expected:.1f}"):
        table.add_column(heading, justify="left" if heading == "of" else "right")
    for what, score in (("means of units and energy", result.state_score), ("gradient", result.gradient_score)):
        table.add_row(what, f"{score:.1f}", "as it should" if score <= result.scores_expected else "TOO MUCH")
    console.print(table)
    if result.step_bias is not None:
        console.print(f"step bias of the virial: {result.step_bias:.1%}")
    console.print(f"noise of one batch's gradient: {result.noise:.0%} of its size")
    if result.certificate is not None:
        _show_certificate(console, result.certificate)


def _show_certificate(console, certificate):
    if certificate.beta is not None:
        table = Table(title="Gradient against the exact one", title_justify="left")
        for heading in ("beta", "cosine", "relative error"):
            table.add_column(heading, justify="right")
        rows = sorted(zip(certificate.betas, certificate.cosines, certificate.errors, strict=True), reverse=True)
        for factor, cosine, error in rows:
            table.add_row(f"{certificate.beta * factor:.3g}", f"{cosine:.8f}", f"{error:.2e}")
        console.print(table)
    console.print(str(certificate), markup=False)
