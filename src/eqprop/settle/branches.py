r"""Many rest states: restarts that list the branches of a system, and whether nudged phases kept to theirs.

The gradient of equilibrium propagation is that of the branch the free phase reached. Where several exist, it is worth
knowing how many, how low each lies, and how often a start ends in it; and whether the nudged phases stayed.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqprop.equilibrium import AbstractEquilibrium
from eqprop.settle.base import Solver
from eqprop.settle.descent import GradientFlow
from eqprop.settle.newton import Newton
from eqprop.system import System

__all__ = ["Branches", "Polished", "branches", "held"]


class Polished(Solver):
    """One solver after the other: `first` finds the basin, `then` (Newton's method) settles to rounding within it.

    Newton's method alone goes to whatever stationary point is near, saddles included; a flow alone is slow at the end.
    """

    first: Solver = eqx.field(default_factory=lambda: GradientFlow(step_size=0.1, rtol=1e-4, atol=1e-4))
    then: Solver = eqx.field(default_factory=lambda: Newton(rtol=1e-12, atol=1e-12))

    def solve(self, system, inputs, start, *, free, key):
        rough = self.first.solve(system, inputs, start, free=free, key=key)
        return self.then.solve(system, inputs, rough.restart, free=free, key=key)


@dataclasses.dataclass(frozen=True)
class Branches:
    """The distinct rest states that restarts of one example reached, the lowest first."""

    states: PyTree
    """Their states, leading axis the branch."""
    energies: Float[np.ndarray, " branch"]
    """Their energies. [as the system's]"""
    counts: Int[np.ndarray, " branch"]
    """How many starts ended in each."""
    unsettled: int
    """How many starts did not settle."""
    period: float | None
    """Period of the state's entries, if they are angles."""
    tolerance: float
    """Largest difference of states that count as one."""

    def index(self, state: PyTree) -> int | None:
        """The number of the branch that `state` lies on; None if it lies on none of them."""
        rows = _rows(self.states)
        gaps = _gap(rows, _rows(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)), self.period)
        near = int(np.argmin(gaps)) if len(gaps) else 0
        return near if len(gaps) and gaps[near] <= self.tolerance else None

    def __str__(self) -> str:
        total = int(self.counts.sum()) + self.unsettled
        lines = [
            f"{len(self.counts)} rest state{'s' * (len(self.counts) != 1)} from {total} starts, {self.unsettled} "
            "unsettled"
        ]
        lines += [
            f"  {k}: energy {energy:.6g}, reached by {count / total:.0%}"
            for k, (energy, count) in enumerate(zip(self.energies, self.counts, strict=True))
        ]
        return "\n".join(lines)


def branches(
    system: System,
    inputs: PyTree,
    solver: Solver,
    starts: PyTree,
    *,
    period: float | None = None,
    tolerance: float = 1e-3,
) -> Branches:
    """Settle one example from several starts and tell its rest states apart.

    Args:
        system: The system.
        inputs: Inputs of the one example.
        solver: Settles; `Polished()` keeps to minima and settles tightly.
        starts: States to begin at, leading axis the start.
        period: Period of the state's entries: 2 pi for phases, None for states that are not periodic.
        tolerance: Largest difference of two states that count as one. [the state's unit]

    Raises:
        ValueError: if `starts` do not fit the system's state.
    """
    shape = jax.tree.map(jnp.shape, system.initial_state(inputs))
    given = jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], starts)
    if shape != given:
        raise ValueError(
            f"`starts` hold states of shapes {given}; this system's state has {shape}. Leading axis: the start."
        )
    found = _from_all(system, inputs, solver, starts)
    settled = np.asarray(found[1])
    rows, energies = _rows(found[0])[settled], np.asarray(found[2])[settled]
    members: list[list[int]] = []
    for row in np.argsort(energies, kind="stable"):
        for group in members:
            if _gap(rows[group[0]][None], rows[row][None], period)[0] <= tolerance:
                group.append(int(row))
                break
        else:
            members.append([int(row)])
    first = np.flatnonzero(settled)[[group[0] for group in members]] if members else np.zeros(0, int)
    return Branches(
        states=jax.tree.map(lambda leaf: leaf[first], found[0]),
        energies=energies[[group[0] for group in members]] if members else np.zeros(0),
        counts=np.array([len(group) for group in members], int),
        unsettled=int((~settled).sum()),
        period=period,
        tolerance=tolerance,
    )


@eqx.filter_jit
def _from_all(system, inputs, solver, starts):
    def one(start):
        equilibrium = solver.solve(system, inputs, start, free=None, key=None)
        return equilibrium.restart, equilibrium.settled, system.energy(equilibrium.restart, inputs)

    return jax.vmap(one)(starts)


def held(
    system: System,
    inputs: PyTree,
    solver: Solver,
    free: AbstractEquilibrium,
    nudged: AbstractEquilibrium,
    *,
    period: float | None = None,
    tolerance: float = 1e-3,
) -> Bool[Array, "phase batch"]:
    """Whether each nudged phase kept to the free state's branch: let go, does it settle back to where it came from?

    Args:
        system: The system.
        inputs: The batch that the estimate was made on.
        solver: Settles freely.
        free: `estimate.free`. [batch]
        nudged: `estimate.nudged`. [phase, batch]
        period: As in `branches`.
        tolerance: As in `branches`.
    """

    def one(x, state, home):
        back = solver.solve(system, x, state, free=None, key=None)
        gap = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.subtract, back.restart, home))[0]
        gap = gap if period is None else gap - period * jnp.round(gap / period)
        return back.settled & (jnp.max(jnp.abs(gap)) <= tolerance)

    def batch(state):
        return jax.vmap(one)(jax.tree.map(jnp.asarray, inputs), state, free.restart)

    return eqx.filter_jit(jax.vmap(batch))(nudged.restart)


def _rows(states):
    leaves = [np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(states)]
    return np.concatenate(leaves, axis=1) if leaves else np.zeros((0, 0))


def _gap(rows, row, period):
    gap = np.abs(rows - row)
    if period is not None:
        gap = np.abs(gap - period * np.round(gap / period))
    return gap.max(axis=1, initial=0.0 if len(rows) else -math.inf)
