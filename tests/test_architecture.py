"""The arrows of the architecture: who may import whom, held for every file, and shown to catch a planted breach."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "eqprop"

# `motion` is to what moves as `system` is to what rests: the contracts that physics and solvers share.
ROOT = {"system", "motion", "cost", "equilibrium", "version"}
ALLOWED = {
    "substrates": {"system", "motion", "version"},
    "settle": {"system", "motion", "equilibrium", "version"},
    "gradient": {*ROOT, "settle"},
    "bridges": {"system", "equilibrium", "settle", "substrates", "version"},
    "train": {*ROOT, "substrates", "settle", "gradient", "bridges"},
}
# These gather the public names, and the command line calls everything.
FREE = {"__init__", "__main__", "public", "circuits", "cli"}
LONGEST = 600
EVERYTHING = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def room(path: Path, source: Path) -> str:
    """The first folder below `source`, or the module itself if it lies at the root."""
    return path.relative_to(source).with_suffix("").parts[0]


def imported_rooms(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and room of each import from eqprop; "" for the package itself, "." for a relative import."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append((node.lineno, "."))
            continue
        elif isinstance(node, ast.ImportFrom) and node.module == "eqprop":
            names = [f"eqprop.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            package, _, inside = name.partition(".")
            if package == "eqprop":
                found.append((node.lineno, inside.partition(".")[0]))
    return found


def breaches(path: Path, source: Path = SOURCE) -> list[str]:
    """What one file does that the architecture forbids, in words."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    here = room(path, source)
    allowed = ROOT if here in ROOT else ALLOWED.get(here, set()) | {here}
    found = []
    for line, there in imported_rooms(tree):
        if there == ".":
            found.append(f"{path.name}:{line}: relative import; write `from eqprop.…`")
        elif here not in FREE and there not in allowed:
            found.append(f"{path.name}:{line}: `{here}` may not import `eqprop.{there}`")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and here != "cli":
            found.append(f"{path.name}:{node.lineno}: print; only the command line prints")
    if (length := len(text.splitlines())) >= LONGEST:
        found.append(f"{path.name}: {length} lines; split it, the limit is {LONGEST}")
    return found


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_file_keeps_to_the_architecture(name):
    assert breaches(SOURCE / name) == []


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_file_lies_in_a_room_that_the_architecture_knows(name):
    assert room(SOURCE / name, SOURCE) in {*ROOT, *ALLOWED, *FREE}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("system.py", "from eqprop.settle.base import settle", "may not import `eqprop.settle`"),
        ("cost.py", "import eqprop.train", "may not import `eqprop.train`"),
        ("equilibrium.py", "from eqprop import System", "may not import `eqprop.System`"),
        ("cost.py", "import eqprop as ep", "may not import `eqprop.`"),
        ("substrates/mechanics.py", "from eqprop.equilibrium import RESULT", "may not import `eqprop.equilibrium`"),
        ("substrates/circuit/netlist.py", "from eqprop.settle import base", "may not import `eqprop.settle`"),
        ("settle/descent.py", "from eqprop.cost import Cost", "may not import `eqprop.cost`"),
        ("settle/newton.py", "def f():\n    from eqprop.substrates.hopfield import H", "may not import `eqprop.sub"),
        ("gradient/certify.py", "from eqprop.substrates import hopfield", "may not import `eqprop.substrates`"),
        ("bridges/bench.py", "from eqprop.gradient import stencil", "may not import `eqprop.gradient`"),
        ("train/fit.py", "from eqprop.cli import main", "may not import `eqprop.cli`"),
        ("train/fit.py", "from . import config", "relative import"),
        ("__init__.py", "from .system import System", "relative import"),
        ("settle/base.py", "def f(x):\n    print(x)", "only the command line prints"),
        ("cost.py", "x = 1\n" * LONGEST, "the limit is 600"),
    ],
)
def test_a_planted_breach_is_caught(tmp_path, name, text, expected):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    (found,) = breaches(path, tmp_path)
    assert expected in found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("__init__.py", "from eqprop.train.fit import fit"),
        ("cli.py", "import eqprop\nprint(eqprop)"),
        ("train/fit.py", "from eqprop.substrates.hopfield import Hopfield\nfrom eqprop.bridges import bench"),
        ("gradient/stencil.py", "from eqprop.settle.base import settle\nimport jax\nfrom numpy import eqprop"),
        ("cost.py", "x = 1\n" * (LONGEST - 1)),
    ],
)
def test_what_is_allowed_passes(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert breaches(path, tmp_path) == []
