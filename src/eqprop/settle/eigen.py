r"""Eigenstates as equilibria: systems whose energy is the Rayleigh quotient of a Hamiltonian.

* `DenseEigen`: the ground state or any excited one, from the whole spectrum.
* `Lanczos`: the same, matrix-free: H is only applied. Restarted until $\lVert H\psi - E\psi\rVert$ is small.
* `ThermalEigen`: the thermal state $\rho = e^{-H/T}/Z$, as its purification $\rho^{1/2}$.

H itself is read off the energy, $H\psi = \tfrac12\nabla E(\psi) + E\psi$ at unit norm, so a nudged system is solved
as the free one is: a force on expectation values is a term of the Hamiltonian. A cost of expectation values that is
*not* linear (`CostNudged`) is linearised at the state and solved again until it stands still.

A level is an isolated stationary point only if no other level shares its energy: degenerate states are refused, as
`RESULT.singular`. Nudged phases keep to the level that overlaps most with the free state; beta must stay well below
the gap.

Source:
    C. Lanczos, An iteration method for the solution of the eigenvalue problem, 1950. B. N. Parlett, The symmetric
    eigenvalue problem, 1998, chapters 11 to 13.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Inexact, Int, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium, Equilibrium
from eqprop.settle.base import Solver, real_dtype
from eqprop.system import CostNudged, Forced, System

__all__ = ["DenseEigen", "Eigenstate", "Lanczos", "ThermalEigen"]


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


class DenseEigen(Solver):
    """Level number `level` (0 is the ground state) by diagonalising H as a matrix: up to about 10 spins.

    `degenerate` is the gap, relative to the largest energy, below which two levels count as one.
    """

    level: int = 0
    degenerate: float = 1e-9
    rtol: float = 1e-8
    atol: float = 1e-10
    max_steps: int = 50

    def __check_init__(self):
        _check_level(self.level)

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

        return _self_consistent(self, system, inputs, start, free, diagonalise)


class Lanczos(Solver):
    """Level number `level` by the Lanczos method with full reorthogonalisation, restarted, lower levels deflated.

    Args:
        level: 0 is the ground state.
        krylov: Vectors of a Krylov space: memory is `krylov` states.
        rtol: Accuracy of the eigenvector; relative to the displacement in nudged phases.
        atol: Absolute accuracy of the eigenvector, in free phases.
        max_steps: Restarts for each level, and solves of a cost that is not linear.
        degenerate: As for `DenseEigen`.
    """

    level: int = 0
    krylov: int = 40
    rtol: float = 1e-8
    atol: float = 1e-10
    max_steps: int = 200
    degenerate: float = 1e-7

    def __check_init__(self):
        _check_level(self.level)
        if self.krylov < 3:
            raise ValueError(f"`Lanczos.krylov` must be at least 3; got {self.krylov}. 30 to 60 are usual.")

    def solve(self, system, inputs, start, *, free, key):
        del key
        size = start.shape[0]
        if self.level + 2 > size:
            raise ValueError(
                f"`Lanczos.level` = {self.level} needs more than the {size} states there are; use `DenseEigen`."
            )
        # In a nudged phase the displacement counts, which may be small: to rounding.
        precise = 0.1 * (self.atol + self.rtol) if free is None else 50 * float(jnp.finfo(start.dtype).eps)

        def lowest(linear, state, steps):
            apply = _hamiltonian(linear, inputs)
            values, vectors = [], jnp.zeros((0, size), start.dtype)
            # The level wanted and the next one above, which tells the gap.
            for k in range(self.level + 2):
                begin = state if k == self.level else _another(size, k, start.dtype)
                above = k == self.level + 1
                value, vector, used = _restarted(apply, begin, vectors, self, 1e-5 if above else precise, above)
                values.append(value)
                vectors = jnp.concatenate([vectors, vector[None]])
                steps = steps + used
            return jnp.stack(values), vectors, steps

        return _self_consistent(self, system, inputs, start, free, lowest)


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


def _check_level(level):
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


def _hamiltonian(system, inputs):
    """H times a vector, read off the energy of the normalised vector."""

    def apply(vector):
        norm = jnp.linalg.norm(vector)
        # The quotient has no value at zero: take any direction there, which `norm` then cancels.
        unit = jnp.where(norm > 0, vector / jnp.where(norm > 0, norm, 1), vector.shape[0] ** -0.5)
        value, slope = jax.value_and_grad(system.energy)(unit, inputs)
        return norm * (0.5 * slope + value * unit)

    return apply


def _matrix(system, inputs, size, dtype):
    columns = jax.vmap(_hamiltonian(system, inputs))(jnp.eye(size, dtype=dtype))
    return 0.5 * (columns + columns.T)


def _self_consistent(solver, system, inputs, start, free, lowest) -> Eigenstate:
    """Solve, linearising a cost nudge at the last state, until the state stands still; then judge it."""
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


def _another(size, index, dtype):
    """A start for level number `index`, with no symmetry: fixed pseudo-random amplitudes."""
    return jax.random.normal(jax.random.key(index), (size,), dtype)


def _restarted(apply, begin, found, solver, precise, value_only):
    """Lowest eigenpair orthogonal to the rows of `found`, and how often H was applied.

    With `value_only` the eigenvalue is enough, and levels close above need not be told apart.
    """
    tiny = jnp.finfo(begin.dtype).tiny

    def cycle(loop):
        vector, _, _, steps = loop
        value, ritz, residual, spread, scale = _lanczos(apply, vector, found, solver.krylov)
        beyond = jnp.maximum(residual - 10 * jnp.finfo(vector.dtype).eps * scale, 0)
        error = beyond / (scale if value_only else spread)
        return ritz, value, error, steps + solver.krylov

    def unfinished(loop):
        _, _, error, steps = loop
        return ~(error <= precise) & (steps < solver.max_steps * solver.krylov) & ~jnp.isnan(error)

    start = _orthogonal(begin, found)
    start = start / jnp.maximum(jnp.linalg.norm(start), tiny)
    loop = (start, jnp.zeros((), begin.dtype), jnp.full((), jnp.inf, begin.dtype), jnp.zeros((), jnp.int32))
    vector, value, _, steps = jax.lax.while_loop(unfinished, cycle, loop)
    return value, vector, steps


def _lanczos(apply, start, found, count):
    """One Krylov space from `start`: lowest Ritz value and vector, residual, distance to the next value, scale."""
    size = start.shape[0]
    count = min(count, size - found.shape[0])

    def extend(carry, index):
        basis, vector = carry
        basis = basis.at[index].set(vector)
        image = _orthogonal(apply(vector), found)
        diagonal = jnp.dot(vector, image)
        # Twice is enough: full reorthogonalisation keeps the basis orthogonal to rounding.
        rest = image - basis.T @ (basis @ image)
        rest = rest - basis.T @ (basis @ rest)
        rest = _orthogonal(rest, found)
        beside = jnp.linalg.norm(rest)
        # An invariant subspace is exhausted: go on with zeros, which add levels of their own far above.
        gone = beside <= 1e2 * jnp.finfo(start.dtype).eps * (jnp.abs(diagonal) + 1)
        following = jnp.where(gone, jnp.zeros_like(rest), rest / jnp.where(gone, 1, beside))
        return (basis, following), (diagonal, jnp.where(gone, 0, beside), jnp.any(vector != 0))

    begin = (jnp.zeros((count, size), start.dtype), start)
    (basis, _), (diagonal, beside, alive) = jax.lax.scan(extend, begin, jnp.arange(count))
    high = 1 + jnp.max(jnp.abs(diagonal)) + 2 * jnp.max(beside)
    diagonal = jnp.where(alive, diagonal, high)
    matrix = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    values, vectors = jnp.linalg.eigh(matrix)
    ritz = _orthogonal(basis.T @ vectors[:, 0], found)
    ritz = ritz / jnp.linalg.norm(ritz)
    # The residual over the distance to the next Ritz value is the error of the vector.
    residual = beside[-1] * jnp.abs(vectors[-1, 0])
    spread = jnp.maximum(values[1] - values[0], jnp.finfo(start.dtype).eps * high)
    return values[0], ritz, residual, spread, high


def _orthogonal(vector: Inexact[Array, " dim"], found: Inexact[Array, "level dim"]) -> PyTree:
    """What is left of a vector beside the levels found before."""
    if found.shape[0] == 0:
        return vector
    return vector - found.T @ (found @ vector)
