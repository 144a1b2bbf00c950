r"""Linear solves with the second derivative of a system on a graph, $H = \sum_e k_e a_e a_e^\top$.

Every $a_e$ has at most two entries (`Edges`). The constant part is assembled once; each Newton iteration adds one
number for each further edge.

* `Dense`: an independent set of units (none of them neighbours) has a diagonal block; it is eliminated, and what
  is left is factorised by Cholesky. In a network with one hidden layer only the outputs are left.
* `SuperLU`, `KLU`: sparse direct solves, for thousands of units.

Source:
    F. Dörfler and F. Bullo, Kron reduction of graphs with applications to electrical networks, 2013. T. Davis and
    E. Palamadai Natarajan, Algorithm 907: KLU, 2010.
"""

import abc
import importlib.util

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqprop.system import Edges

__all__ = ["KLU", "Dense", "LaplacianSolver", "SuperLU", "independent_set", "sparse_direct"]

WRITTEN_OUT = 5
"""Up to so many units left, elimination is written out: a call of LAPACK for each example costs more than its work."""


class LaplacianSolver(eqx.Module):
    """Multiplies and divides by the second derivative of a system on a graph."""

    @abc.abstractmethod
    def assemble(self, edges: tuple[Edges, Edges], stiffness: Float[Array, " edge"], size: int) -> PyTree:
        """The constant part, from the stiffness of the edges of the quadratic energy."""

    @abc.abstractmethod
    def multiply(
        self, constant: PyTree, edges: tuple[Edges, Edges], vector: Float[Array, " unit"]
    ) -> Float[Array, " unit"]:
        """The constant part times a vector."""

    @abc.abstractmethod
    def solve(
        self,
        constant: PyTree,
        edges: tuple[Edges, Edges],
        stiffness: Float[Array, " edge"],
        extra: Float[Array, "unit unit"] | None,
        held: Bool[Array, " unit"] | None,
        vector: Float[Array, " unit"],
    ) -> Float[Array, " unit"]:
        """The inverse times a vector; NaN where there is no inverse.

        Args:
            constant: From `assemble`.
            edges: Of the system.
            stiffness: Of the further edges.
            extra: A dense second derivative to be added (of a nudge).
            held: Units that may not move; their entries of the result are zero.
            vector: The right-hand side.
        """


class Dense(LaplacianSolver):
    """Elimination of an independent set, then Cholesky (LU, if the energy need not be convex)."""

    convex: bool = True

    def assemble(self, edges, stiffness, size):
        return _blocks(_kept(edges, size), edges[0], stiffness)

    def multiply(self, constant, edges, vector):
        kept, out = _kept(edges, vector.size)
        own, across, rest = constant
        inner, outer = vector[out], vector[kept]
        first = own * inner + jnp.dot(across, outer)
        second = jnp.dot(inner, across) + jnp.dot(rest, outer)
        return jnp.zeros_like(vector).at[out].set(first).at[kept].set(second)

    def solve(self, constant, edges, stiffness, extra, held, vector):
        size = vector.size
        kept, out = _kept(edges, size) if extra is None else (np.arange(size), np.zeros(0, int))
        if extra is None:
            added = _blocks((kept, out), edges[1], stiffness)
            own, across, rest = (c if a is None else c + a for c, a in zip(constant, added, strict=True))
        else:
            whole = _matrix(constant, edges, size) + _blocks((kept, out), edges[1], stiffness)[2] + extra
            own, across, rest = jnp.ones(0, vector.dtype), jnp.zeros((0, size), vector.dtype), whole
        inner, outer = vector[out], vector[kept]
        if held is not None:
            one = jnp.ones((), vector.dtype)
            in_out, in_kept = held[out], held[kept]
            own = jnp.where(in_out, one, own)
            across = jnp.where(in_out[:, None] | in_kept[None, :], 0, across)
            rest = jnp.where(in_kept[:, None] | in_kept[None, :], jnp.eye(len(kept), dtype=vector.dtype), rest)
            inner, outer = jnp.where(in_out, 0, inner), jnp.where(in_kept, 0, outer)
        scaled = across / own[:, None]
        schur = rest - jnp.dot(scaled.T, across)
        right = outer - jnp.dot(inner, scaled)
        if self.convex and 0 < len(kept) <= WRITTEN_OUT:
            found = _eliminated(schur, right)
        elif self.convex:
            found = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(schur), True), right)
        else:
            found = jnp.linalg.solve(schur, right)
        first = (inner - jnp.dot(across, found)) / own
        return jnp.zeros_like(vector).at[out].set(first).at[kept].set(found)


def _eliminated(matrix, vector):
    """Gauss' elimination of a positive definite matrix, written out; NaN where it is not positive definite."""
    size = len(vector)
    rows, right = list(matrix), list(vector)
    for k in range(size):
        pivot = jnp.where(rows[k][k] > 0, rows[k][k], jnp.nan)
        for i in range(k + 1, size):
            factor = rows[i][k] / pivot
            rows[i], right[i] = rows[i] - factor * rows[k], right[i] - factor * right[k]
        rows[k] = rows[k] / pivot
        right[k] = right[k] / pivot
    for k in reversed(range(size)):
        for i in range(k):
            right[i] = right[i] - rows[i][k] * right[k]
    return jnp.stack(right)


def _matrix(constant, edges, size):
    """The whole constant part, from its blocks."""
    kept, out = _kept(edges, size)
    own, across, rest = constant
    whole = jnp.zeros((size, size), rest.dtype)
    whole = whole.at[out, out].set(own).at[np.ix_(out, kept)].set(across)
    return whole.at[np.ix_(kept, out)].set(across.T).at[np.ix_(kept, kept)].set(rest)


def _blocks(split, edges, stiffness):
    """Diagonal of the eliminated block, the block across, the block kept; None for what no edge touches."""
    kept, out = split
    place = np.empty(len(kept) + len(out), int)
    place[kept], place[out] = np.arange(len(kept)), np.arange(len(out))
    is_out = np.zeros(len(place), bool)
    is_out[out] = True
    own = jnp.zeros(len(out), stiffness.dtype)
    across = jnp.zeros((len(out), len(kept)), stiffness.dtype)
    rest = jnp.zeros((len(kept), len(kept)), stiffness.dtype)
    for row, column, gain, which in _entries(edges):
        value = jnp.asarray(gain, stiffness.dtype) * stiffness[which]
        a, b = is_out[row], is_out[column]
        diagonal, crossing, inside = a & b, a & ~b, ~a & ~b
        # Of two eliminated units only diagonal entries exist: they are no neighbours.
        own = own.at[place[row[diagonal]]].add(value[diagonal])
        if crossing.any():
            across = across.at[place[row[crossing]], place[column[crossing]]].add(value[crossing])
        rest = rest.at[place[row[inside]], place[column[inside]]].add(value[inside])
    return own, across, rest


def _entries(edges):
    """(row, column, factor, edge) of the entries that edges contribute, in both triangles."""
    edge = np.arange(len(edges.tail))
    joined = (edges.tail >= 0) & (edges.head >= 0)
    for end, gain in ((edges.tail, edges.tail_gain), (edges.head, edges.head_gain)):
        here = end >= 0
        yield end[here], end[here], gain[here] ** 2, edge[here]
    cross = -edges.tail_gain[joined] * edges.head_gain[joined]
    yield edges.tail[joined], edges.head[joined], cross, edge[joined]
    yield edges.head[joined], edges.tail[joined], cross, edge[joined]


def _kept(edges, size):
    out = independent_set(edges, size)
    return np.setdiff1d(np.arange(size), out), out


def independent_set(edges: tuple[Edges, Edges], size: int) -> Int[np.ndarray, " unit"]:
    """Units of which no two are neighbours, greedily, those with fewest neighbours first."""
    tails, heads = (np.concatenate([getattr(e, end) for e in edges]) for end in ("tail", "head"))
    joined = (tails >= 0) & (heads >= 0)
    tails, heads = tails[joined], heads[joined]
    graph = scipy.sparse.csr_array((np.ones(2 * len(tails)), (np.r_[tails, heads], np.r_[heads, tails])), (size, size))
    degree = np.diff(graph.indptr)
    blocked, chosen = np.zeros(size, bool), np.zeros(size, bool)
    for unit in np.argsort(degree, kind="stable"):
        if not blocked[unit]:
            chosen[unit] = True
            blocked[graph.indices[graph.indptr[unit] : graph.indptr[unit + 1]]] = True
    return np.flatnonzero(chosen)


class _Sparse(LaplacianSolver):
    """What the sparse solvers share: the values of a fixed pattern of entries."""

    @abc.abstractmethod
    def divide(self, rows: np.ndarray, columns: np.ndarray, values: Array, vector: Array) -> Array:
        """Solve with the matrix of these entries."""

    def assemble(self, edges, stiffness, size):
        return _values(edges, 0, stiffness, size)

    def multiply(self, constant, edges, vector):
        rows, columns = _pattern(edges, vector.size)
        return jnp.zeros_like(vector).at[rows].add(constant * vector[columns])

    def solve(self, constant, edges, stiffness, extra, held, vector):
        if extra is not None:
            raise ValueError(
                f"`{type(self).__name__}` solves forced nudges only: use `nudge=Forced`, or the solver `Dense`."
            )
        rows, columns = _pattern(edges, vector.size)
        values = constant + _values(edges, 1, stiffness, vector.size)
        if held is not None:
            fixed = held[rows] | held[columns]
            values = jnp.where(fixed, jnp.asarray(rows == columns, values.dtype), values)
            vector = jnp.where(held, 0, vector)
        return self.divide(rows, columns, values, vector)


class SuperLU(_Sparse):
    """SciPy's sparse LU, called on the host, one right-hand side after the other."""

    def divide(self, rows, columns, values, vector):
        def on_host(values, vector):
            matrix = scipy.sparse.csc_array((np.asarray(values), (rows, columns)), (vector.size, vector.size))
            try:
                return scipy.sparse.linalg.splu(matrix).solve(np.asarray(vector)).astype(vector.dtype)
            except RuntimeError:  # "Factor is exactly singular"
                return np.full(vector.shape, np.nan, vector.dtype)

        shape = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return jax.pure_callback(on_host, shape, values, vector, vmap_method="sequential")


class KLU(_Sparse):
    """KLU, made for circuits; needs the package klujax and float64. A singular matrix raises."""

    def divide(self, rows, columns, values, vector):
        import klujax

        if vector.dtype != jnp.float64:
            raise ValueError("`KLU` computes in float64 only: enable it (`jax_enable_x64`), or use `SuperLU`.")
        return klujax.solve(jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32), values, vector)


def sparse_direct() -> LaplacianSolver:
    """`KLU` where klujax is installed and float64 is on, else `SuperLU`."""
    available = importlib.util.find_spec("klujax") is not None and jax.config.read("jax_enable_x64")
    return KLU() if available else SuperLU()


def _pattern(edges, size):
    """Rows and columns of all entries of the matrix, each once, the diagonal complete."""
    keys = np.unique(np.concatenate([np.arange(size) * (size + 1), *(r * size + c for r, c, _, _ in _all(edges))]))
    return keys // size, keys % size


def _all(edges):
    for part in edges:
        for row, column, gain, which in _entries(part):
            yield row.astype(np.int64), column.astype(np.int64), gain, which


def _values(edges, part, stiffness, size):
    rows, columns = _pattern(edges, size)
    keys = rows * size + columns
    values = jnp.zeros(len(keys), stiffness.dtype)
    for row, column, gain, which in _entries(edges[part]):
        slot = np.searchsorted(keys, row.astype(np.int64) * size + column)
        values = values.at[slot].add(jnp.asarray(gain, stiffness.dtype) * stiffness[which])
    return values
