r"""Eigenstates as equilibria: systems whose energy is the Rayleigh quotient of a Hamiltonian.

* `DenseEigen`: the ground state or any excited one, from the whole spectrum.
* `eqprop.settle.lanczos.Lanczos`: the same, matrix-free.
* `ThermalEigen`: the thermal state $\rho = e^{-H/T}/Z$, as its purification $\rho^{1/2}$.

H itself is read off the energy, $H\psi = \tfrac12\nabla E(\psi) + E\psi$ at unit norm, so a nudged system is solved
as the free one is: a force on expectation values is a term of the Hamiltonian. A cost of expectation values that is
*not* linear (`CostNudged`) is linearised at the state and solved again until it stands still.

A level is an isolated stationary point only if no other level shares its energy: degenerate states are refused, as
`RESULT.singular`. Nudged phases keep to the level that overlaps most with the free state; beta must stay well below
the gap.

Source:
    B. N. Parlett, The symmetric eigenvalue problem, 1998, chapter 11.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium, Equilibrium
from eqprop.settle.base import Solver, real_dtype
from eqprop.system import CostNudged, Forced, System

__all__ = ["DenseEigen", "Eigenstate", "LevelSolver", "ThermalEigen", "check_level", "hamiltonian", "self_consistent"]


class Eigenstate(AbstractEquilibrium):
    """One eigenstate (or a thermal purification), with its energy and its distance to the other levels."""

    state: PyTree
    result: RESULT
    residual: Float[Array, "*batch"]
    """Norm of H psi - E psi over the gap, per amplitude: the distance to the eigenvector."""
    steps: Int[Array, "*batch"]
    """How often H was applied; 0 for dense solves."""
    value: Float[Array, "*batch"]
    """The eigenvalue, of the nudged Hamiltonian in nudged phases. [coupling]"""
    gap: Float[Array, "*batch"]
    """Distance to the nearest other level: the scale that beta times the force must stay below. [coupling]"""

    @property
    def restart(self):
        """The state itself."""
        return self.state

    def expect(self, fn):
        """`fn` of the state; expectation values of observables are the system's outputs."""
        return fn(self.state)


class LevelSolver(Solver):
    """A solver for one level of the spectrum."""

    level: eqx.AbstractVar[int]
    degenerate: eqx.AbstractVar[float]
    rtol: eqx.AbstractVar[float]
    atol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]


class DenseEigen(LevelSolver):
    """Level number `level` (0 is the ground state) by diagonalising H as a matrix: up to about 10 spins.

    `degenerate` is the gap, relative to the largest energy, below which two levels count as one.
    """

    level: int = 0
    degenerate: float = 1e-9
    rtol: float = 1e-8
    atol: float = 1e-10
    max_steps: int = 50

    def __check_init__(self):
        check_level(self.level)

    def solve(self, system, inputs, start, *, free, key):
        del key

        def diagonalise(linear, state, steps):
            del state
            size = start.shape[0]
            if self.level >= size:
                raise ValueError(
                    f"`level` = {self.level} does not exist: there are {size} states, the ground state is 0."
                )
            values, vectors = jnp.linalg.eigh(_matrix(linear, inputs, size, start.dtype))
            return values, vectors.T, steps + 0

        return self_consistent(self, system, inputs, start, free, diagonalise)


class ThermalEigen(Solver):
    r"""The thermal state $e^{-H/T}/Z$ of a dense Hamiltonian; its state is the purification $\rho^{1/2}$, a matrix.

    It is the minimum of the free energy $\mathrm{Tr}\,\rho H + T\,\mathrm{Tr}\,\rho\log\rho$, so the contrast of nudged
    phases is exact in the limit of weak nudges. The covariance formula of *classical* Boltzmann distributions is not:
    H and the observables do not commute.
    """

    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        if not isinstance(self.temperature, Tracer) and not self.temperature > 0:
            raise ValueError(
                f"`ThermalEigen.temperature` must be positive; got {self.temperature}. For temperature 0 use "
                "`DenseEigen`."
            )

    def solve(self, system, inputs, start, *, free, key):
        del key
        size = start.shape[0]
        reference = _purified(start) if free is None else free.restart

        def state_of(linear):
            values, vectors = jnp.linalg.eigh(_matrix(linear, inputs, size, start.dtype))
            weights = jnp.exp(-(values - values[0]) / (2 * self.temperature.astype(values.dtype)))
            weights = weights / jnp.linalg.norm(weights)
            return values, (vectors * weights[None]) @ vectors.T

        linear = _linearised(system, reference)
        values, state = state_of(linear)
        if linear is not system:
            state, values = _repeat(lambda s: state_of(_linearised(system, s))[::-1], state, values)
        change = jnp.zeros((), real_dtype(start))
        good = jnp.all(jnp.isfinite(state))
        result = RESULT.where(good, RESULT.settled, RESULT.diverged)
        return Eigenstate(state, result, change, jnp.zeros((), jnp.int32), values[0], values[1] - values[0])


def check_level(level: int) -> None:
    """Raise ValueError for a level below the ground state."""
    if level < 0:
        raise ValueError(f"`level` counts from the ground state, 0; got {level}.")


def _purified(state):
    return state if state.ndim == 2 else jnp.diag(jnp.ones(state.shape[0], state.dtype)) / state.shape[0] ** 0.5


def _linearised(system: System, state: Array) -> System:
    """The system itself; a cost nudge replaced by its force at `state`, which is a term of the Hamiltonian."""
    if not isinstance(system, CostNudged):
        return system
    here = Equilibrium(state, RESULT.settled, jnp.zeros((), real_dtype(state)), jnp.zeros((), jnp.int32))
    return Forced(system.system, system.cost, system.targets, here, system.beta)


def hamiltonian(system: System, inputs: PyTree) -> Callable[[Array], Array]:
    """H times a vector, read off the energy of the normalised vector."""

    def apply(vector):
        norm = jnp.linalg.norm(vector)
        # The quotient has no value at zero: take any direction there, which `norm` then cancels.
        unit = jnp.where(norm > 0, vector / jnp.where(norm > 0, norm, 1), vector.shape[0] ** -0.5)
        value, slope = jax.value_and_grad(system.energy)(unit, inputs)
        return norm * (0.5 * slope + value * unit)

    return apply


def _matrix(system, inputs, size, dtype):
    columns = jax.vmap(hamiltonian(system, inputs))(jnp.eye(size, dtype=dtype))
    return 0.5 * (columns + columns.T)


def self_consistent(
    solver: LevelSolver,
    system: System,
    inputs: PyTree,
    start: Array,
    free: AbstractEquilibrium | None,
    lowest: Callable[[System, Array, Int[Array, ""]], tuple[Array, Array, Int[Array, ""]]],
) -> Eigenstate:
    """Solve, linearising a cost nudge at the last state, until the state stands still; then judge it.

    Args:
        solver: Says which level, and how closely.
        system: Free or nudged.
        inputs: Of the example.
        start: Where to begin.
        free: The free state, in nudged phases.
        lowest: `(system, state, steps)` to energies, eigenvectors as rows, and steps with those taken added.
    """
    level = min(solver.level, start.shape[0] - 1)

    def solve(state, steps):
        values, vectors, steps = lowest(_linearised(system, state), state, steps)
        chosen = jnp.asarray(level) if free is None else jnp.argmax(jnp.abs(vectors @ free.restart))
        # The sign of an eigenvector means nothing: take the one nearest to the state before.
        vector = vectors[chosen]
        vector = jnp.where(jnp.dot(vector, state) < 0, -vector, vector)
        others = jnp.where(jnp.arange(values.shape[0]) == chosen, jnp.inf, jnp.abs(values - values[chosen]))
        return vector, values[chosen], jnp.min(others), jnp.max(jnp.abs(values)), steps

    vector, value, gap, scale, steps = solve(start, jnp.zeros((), jnp.int32))
    if isinstance(system, CostNudged):

        def unfinished(loop):
            vector, before, *_, count = loop
            return (jnp.linalg.norm(vector - before) > _accuracy(solver, vector, free)) & (count < solver.max_steps)

        def again(loop):
            vector, _, _, _, _, steps, count = loop
            new, value, gap, scale, steps = solve(vector, steps)
            return new, vector, value, gap, scale, steps, count + 1

        loop = (vector, start, value, gap, scale, steps, jnp.zeros((), jnp.int32))
        vector, _, value, gap, scale, steps, _ = jax.lax.while_loop(unfinished, again, loop)
    return _judged(solver, system, inputs, vector, value, gap, scale, steps, free)


def _judged(solver, system, inputs, vector, value, gap, scale, steps, free):
    slope = jax.grad(system.energy)(vector, inputs)
    floor = 10 * jnp.finfo(vector.dtype).eps * scale
    # An error of the eigenvector is the residual over the gap; rounding of H itself is not held against it.
    distance = jnp.maximum(0.5 * jnp.linalg.norm(slope) - floor, 0) / jnp.maximum(gap, floor)
    settled = distance <= _accuracy(solver, vector, free)
    result = RESULT.where(settled, RESULT.settled, RESULT.max_steps_reached)
    if free is not None:
        kept = jnp.abs(jnp.dot(vector, free.restart)) > 0.5**0.5
        result = RESULT.where(kept, result, RESULT.branch_lost)
    result = RESULT.where(gap > solver.degenerate * scale, result, RESULT.singular)
    result = RESULT.where(jnp.all(jnp.isfinite(vector)), result, RESULT.diverged)
    return Eigenstate(vector, result, distance / vector.size**0.5, steps, value, gap)


def _accuracy(solver, vector, free):
    """The largest error of the (unit) eigenvector that counts as settled."""
    rounding = 100 * float(jnp.finfo(vector.dtype).eps)
    if free is None:
        return solver.atol + solver.rtol + rounding
    return solver.rtol * jnp.linalg.norm(vector - free.restart) + rounding


def _repeat(step, state, extra, *, limit: int = 100):
    """Repeat `state, extra = step(state)` until the state stands still."""
    tolerance = 1e3 * float(jnp.finfo(state.dtype).eps)

    def unfinished(loop):
        state, before, _, count = loop
        return (jnp.linalg.norm(state - before) > tolerance) & (count < limit)

    def again(loop):
        state, _, _, count = loop
        new, extra = step(state)
        return new, state, extra, count + 1

    begin = (state, jnp.full_like(state, jnp.inf), extra, jnp.zeros((), jnp.int32))
    state, _, extra, _ = jax.lax.while_loop(unfinished, again, begin)
    return state, extra
