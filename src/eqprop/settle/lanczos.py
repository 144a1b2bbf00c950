r"""The Lanczos method, matrix-free: the Hamiltonian is only applied.

Restarted until $\lVert H\psi - E\psi\rVert$ is small; levels below the one looked for are deflated.

Source:
    C. Lanczos, An iteration method for the solution of the eigenvalue problem, 1950. B. N. Parlett, The symmetric
    eigenvalue problem, 1998, chapters 12 and 13.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from eqprop.settle.eigen import LevelSolver, check_level, hamiltonian, self_consistent

__all__ = ["Lanczos"]


class Lanczos(LevelSolver):
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
        check_level(self.level)
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
            apply = hamiltonian(linear, inputs)
            values, vectors = [], jnp.zeros((0, size), start.dtype)
            # The level wanted and the next one above, which tells the gap.
            for k in range(self.level + 2):
                begin = state if k == self.level else _another(size, k, start.dtype)
                above = k == self.level + 1
                wanted = jnp.asarray(1e-5 if above else precise, start.dtype)
                value, vector, used = _restarted(apply, begin, vectors, self, wanted, value_only=above)
                steps = steps + used
                if above and free is not None:
                    # A nudge stronger than the gap has exchanged the two: then this is the one that is followed.
                    crossed = jnp.abs(jnp.dot(vector, free.restart)) > jnp.max(jnp.abs(vectors @ free.restart))
                    wanted = jnp.where(crossed, precise, jnp.inf).astype(start.dtype)
                    followed, closely, used = _restarted(apply, vector, vectors, self, wanted, value_only=False)
                    value, vector = (jnp.where(crossed, n, o) for n, o in ((followed, value), (closely, vector)))
                    steps = steps + used
                values.append(value)
                vectors = jnp.concatenate([vectors, vector[None]])
            return jnp.stack(values), vectors, steps

        return self_consistent(self, system, inputs, start, free, lowest)


def _another(size, index, dtype):
    """A start for level number `index`, with no symmetry: fixed pseudo-random amplitudes."""
    return jax.random.normal(jax.random.key(index), (size,), dtype)


def _restarted(apply, begin, found, solver, precise, *, value_only):
    """Lowest eigenpair orthogonal to the rows of `found`, and how often H was applied; never if `precise` is infinite.

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


def _orthogonal(vector: Inexact[Array, " dim"], found: Inexact[Array, "level dim"]) -> Inexact[Array, " dim"]:
    """What is left of a vector beside the levels found before."""
    if found.shape[0] == 0:
        return vector
    return vector - found.T @ (found @ vector)
