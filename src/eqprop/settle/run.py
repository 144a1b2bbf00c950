"""Runs of systems in motion, forward: what they leave, as an equilibrium, and whole stacks of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium
from eqprop.motion import Hamiltonian, Stack
from eqprop.settle.base import Solver, real_dtype, rms
from eqprop.settle.stream import run
from eqprop.system import System

__all__ = ["PathEquilibrium", "Run", "blocks_of", "ended", "run_batch"]


class PathEquilibrium(AbstractEquilibrium):
    """A path in phase space, or the end of a run; `residual` is how far an echo still was from rest when it stopped."""

    state: PyTree
    result: RESULT
    residual: Inexact[Array, "*batch"]
    steps: Int[Array, "*batch"]

    @property
    def restart(self) -> PyTree:
        """The path itself; a nudged phase takes its end."""
        return self.state

    def expect(self, fn):
        """`fn` of the path."""
        return fn(self.state)


class Run(Solver):
    """Runs a `Hamiltonian` system, or a `Stack`, forward without storing the path: what evaluation needs."""

    def solve(self, system, inputs, start, *, free, key):
        del start, key
        if free is not None:
            raise ValueError(
                "`Run` only runs forward; nudged phases take `Echo`, and whole gradients `EchoPropagation`."
            )
        ends, _ = run_batch(system, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], inputs))
        return ended(jax.tree.map(lambda leaf: leaf[0], ends))


def blocks_of(system: System) -> tuple[Hamiltonian, ...]:
    """The blocks of a `Stack`; any other system is one.

    Raises:
        ValueError: if it is no system in motion.
    """
    if isinstance(system, Stack):
        return system.blocks
    if not isinstance(system, Hamiltonian):
        raise ValueError(f"Only `Hamiltonian` systems and stacks of them run; `{type(system).__name__}` is neither.")
    return (system,)


def run_batch(system: System, inputs: PyTree) -> tuple[PyTree, PyTree]:
    """Where the runs of a batch end (for a `Stack` one for each block), and its outputs."""
    ends = []
    for block in blocks_of(system):
        drive, begin = jax.vmap(block.drive)(inputs), jax.vmap(block.begin)(inputs)
        ends.append(run(block, drive, block.length(jax.tree.map(lambda leaf: leaf[0], inputs)), begin))
        inputs = jax.vmap(block.readout)(ends[-1].features)
    return (tuple(ends) if isinstance(system, Stack) else ends[0]), inputs


def ended(end: PyTree) -> PathEquilibrium:
    """One example's run as an equilibrium: settled, unless something became infinite."""
    finite = jnp.isfinite(rms(end))
    residual = jnp.where(finite, 0, jnp.inf).astype(real_dtype(end))
    result = RESULT.where(finite, RESULT.settled, RESULT.diverged)
    return PathEquilibrium(end, result, residual, jnp.ones((), jnp.int32))
