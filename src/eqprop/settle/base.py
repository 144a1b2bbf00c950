r"""Settling: from a system to an equilibrium, and the one loop that iterative solvers share.

A loop runs until the residual $r$ of its example is small,

* in a free phase: $r \le \mathrm{atol} + \mathrm{rtol}\,\lVert s\rVert$,
* in a nudged phase: $r \le \mathrm{rtol}\,\lVert s - s_{\mathrm{free}}\rVert$ (plus rounding), because what is learned
  from is the displacement alone,

with root-mean-square norms over the state's units. Under `jax.vmap` each example stops by itself.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium, Equilibrium
from eqprop.system import System, project

__all__ = ["IterativeSolver", "Solver", "projected_gradient", "rms", "rounding", "settle", "state_gradient"]


class Solver(eqx.Module):
    """Takes any system to an equilibrium. Subclass it for a new kind of physics, a sampler or a bench."""

    host: ClassVar[bool] = False
    """Whether the solver runs outside JAX (a simulator process, a bench) and must not be traced."""

    stochastic: ClassVar[bool] = False
    """Whether the solver draws samples: it needs a key, and its phases share their noise only if they share that."""

    @abc.abstractmethod
    def solve(
        self,
        system: System,
        inputs: PyTree,
        start: PyTree,
        *,
        free: AbstractEquilibrium | None,
        key: PRNGKeyArray | None,
    ) -> AbstractEquilibrium:
        """Settle one example from `start`. `free` is the free equilibrium, in a nudged phase."""


class IterativeSolver(Solver):
    """A solver that repeats one step until the residual is small: it writes `init` and `step` only."""

    rtol: eqx.AbstractVar[float]
    atol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    non_finite: ClassVar[RESULT] = RESULT.diverged
    """What a residual that is infinite or NaN means for this solver."""

    @abc.abstractmethod
    def init(self, system: System, inputs: PyTree, state: PyTree, stats: dict[str, Array]) -> PyTree:
        """What the solver carries from step to step, besides the state; `stats` are those of the free phase."""

    @abc.abstractmethod
    def step(
        self, system: System, inputs: PyTree, state: PyTree, carry: PyTree
    ) -> tuple[PyTree, Float[Array, ""], PyTree]:
        """One step: the new state, the residual and the new carry."""

    @abc.abstractmethod
    def stats(self, carry: PyTree) -> dict[str, Array]:
        """What is worth telling of the way, and worth knowing in nudged phases."""

    def tolerance(self, state: PyTree, free: AbstractEquilibrium | None) -> Float[Array, ""]:
        """The largest residual that counts as settled."""
        if free is None:
            return jnp.maximum(self.atol + self.rtol * rms(state), rounding(state))
        return self.rtol * rms(jax.tree.map(jnp.subtract, state, free.restart)) + rounding(free.restart)

    def solve(self, system, inputs, start, *, free, key):
        del key
        settle_from = project(system, start)

        def unfinished(loop):
            _, residual, done, _, steps = loop
            return ~done & (steps < self.max_steps) & ((steps == 0) | jnp.isfinite(residual))

        def advance(loop):
            before, _, _, carry, steps = loop
            state, residual, carry = self.step(system, inputs, before, carry)
            # False only under `vmap`, for examples that are done. What follows looks at the state that is kept: the old
            # one needs no copy.
            going = unfinished(loop)
            state = jax.tree.map(lambda new, old: jnp.where(going, new, old), state, before)
            # A state that overflows has an infinite tolerance too: infinity must not count as small.
            done = jnp.isfinite(residual) & (residual <= self.tolerance(state, free))
            return state, residual, done, carry, steps + 1

        loop = (
            settle_from,
            jnp.full((), jnp.inf, real_dtype(start)),
            jnp.zeros((), bool),
            self.init(system, inputs, settle_from, free.stats if isinstance(free, Equilibrium) else {}),
            jnp.zeros((), jnp.int32),
        )
        state, residual, done, carry, steps = jax.lax.while_loop(unfinished, advance, loop)
        unsettled = RESULT.where(jnp.isfinite(residual), RESULT.max_steps_reached, self.non_finite)
        return Equilibrium(state, RESULT.where(done, RESULT.settled, unsettled), residual, steps, self.stats(carry))


def settle(
    system: System,
    inputs: PyTree,
    solver: Solver,
    *,
    start: PyTree | None = None,
    free: AbstractEquilibrium | None = None,
    key: PRNGKeyArray | None = None,
    throw: bool = True,
) -> AbstractEquilibrium:
    """Settle a system: one example; for batches use `jax.vmap`.

    Args:
        system: The system, free or nudged.
        inputs: Inputs of the example.
        solver: What takes it to rest.
        start: Where to begin; the system's `initial_state` (or the free equilibrium) by default.
        free: The free equilibrium, for a nudged phase: settling is then judged against the displacement
            from it.
        key: Random key, for solvers whose physics is random.
        throw: Whether to raise if the state did not settle. With False, look at `result`.

    Returns:
        The equilibrium.

    Raises:
        ValueError: if the energy is not a real scalar, or `start` does not fit the system.
        EquinoxRuntimeError: if the state did not settle (`throw`) or `start` lies outside the bounds.
    """
    if start is None:
        start = system.initial_state(inputs) if free is None else free.restart
    # A sampler may start from many states at once.
    check_energy(system, system.initial_state(inputs) if solver.stochastic else start, inputs)
    if solver.host:
        equilibrium = solver.solve(system, inputs, start, free=free, key=key)
    else:
        start = _inside(system, start)
        equilibrium = _solve(system, inputs, solver, start, free, key)
    if throw:
        equilibrium = equilibrium.result.error_if(equilibrium, equilibrium.result != RESULT.settled)
    return equilibrium


@eqx.filter_jit
def _solve(system, inputs, solver, start, free, key):
    return solver.solve(system, inputs, start, free=free, key=key)


def check_energy(system: System, state: PyTree, inputs: PyTree) -> None:
    """Raise ValueError unless the energy is a scalar and the state a tree of floating-point arrays."""
    name = type(system).__name__
    for leaf in jax.tree.leaves(state):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not jnp.issubdtype(
            jnp.result_type(leaf), jnp.integer
        ):
            raise ValueError(f"The state of `{name}` must hold numbers; got a leaf of type {jnp.result_type(leaf)}.")
    value = eqx.filter_eval_shape(system.energy, state, inputs)
    if getattr(value, "shape", None) != ():
        got = f"shape {value.shape}" if hasattr(value, "shape") else type(value).__name__
        raise ValueError(
            f"`{name}.energy` must return a scalar for one example; got {got}. "
            "Sum over the units; batches are made by `jax.vmap`, not in `energy`."
        )


def _inside(system, start):
    bounds = system.bounds()
    if bounds is None:
        return start

    def outside(s, low, high):
        slack = 1e-6 * (1 + jnp.abs(s))
        return jnp.any((s < low - slack) | (s > high + slack))

    escaped = jax.tree.leaves(jax.tree.map(outside, start, *bounds))
    message = (
        f"`start` lies outside the bounds of `{type(system).__name__}`. Begin inside them: "
        "`initial_state`, or `project(system, start)`."
    )
    return eqx.error_if(start, jnp.any(jnp.stack(escaped)), message)


def state_gradient(system: System, state: PyTree, inputs: PyTree) -> PyTree:
    """Derivative of the energy in the state; holomorphic where the state is complex."""
    is_complex = any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(state))
    return jax.grad(system.energy, holomorphic=is_complex)(state, inputs)


def projected_gradient(system: System, state: PyTree, inputs: PyTree) -> PyTree:
    r"""$s - P(s - \partial E/\partial s)$ with $P$ the projection on the bounds; zero exactly at rest."""
    gradient = state_gradient(system, state, inputs)
    if system.bounds() is None:
        return gradient
    moved = project(system, jax.tree.map(jnp.subtract, state, gradient))
    return jax.tree.map(jnp.subtract, state, moved)


def rms(tree: PyTree) -> Float[Array, ""]:
    """Root mean square over all entries of a tree."""
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(sum(jnp.sum(jnp.real(x * jnp.conj(x))) for x in leaves) / max(sum(x.size for x in leaves), 1))


def rounding(state: PyTree) -> Float[Array, ""]:
    """The rounding error that a few sums over a state of this size leave: 4 units in the last place."""
    return 4 * float(np.finfo(real_dtype(state)).eps) * rms(state)


def real_dtype(tree: PyTree) -> np.dtype:
    """The real floating-point type of a tree's numbers."""
    kind = jnp.result_type(*(jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(tree)))
    return np.real(np.zeros((), kind)).dtype
