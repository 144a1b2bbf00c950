r"""What an estimator returns, and what all estimators share: the free phase and the contraction of phases.

The gradient is $\nabla_\theta$ of the batch mean of $\sum_k w_k\,\mathrm{expect}(F_k)$ with the states held fixed:
one reverse pass for the whole batch, never a gradient per example.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Inexact, Int, Key, PRNGKeyArray, PyTree, UInt32

from eqprop.cost import Cost
from eqprop.equilibrium import RESULT, AbstractEquilibrium
from eqprop.settle.base import Solver, check_energy
from eqprop.system import System

__all__ = [
    "Estimate",
    "Estimator",
    "batch_size",
    "check_batch",
    "free_phase",
    "gradient_error",
    "map_batch",
    "mean_gradient",
    "value_and_outputs",
]


class Estimate(eqx.Module):
    """A gradient with the evidence for it. The leading axis of batched fields is the example."""

    value: Inexact[Array, ""]
    """Mean cost over the settled examples, at the free equilibrium."""
    gradient: PyTree
    """A tree like the system (None where nothing is trained): the gradient of `value`."""
    outputs: PyTree
    """The system's outputs at the free equilibrium. [batch, ...]"""
    result: RESULT
    """How each example ended. [batch]"""
    free: AbstractEquilibrium
    """The free phases. [batch]"""
    nudged: AbstractEquilibrium | None
    """The nudged phases, where there are any. [phase, batch]"""
    standard_error: PyTree | None = None
    """Standard error of `gradient`, a tree like it, where the phases are samples; from the spread between chains."""
    unmoved: Bool[Array, " batch"] | None = None
    """Where the phases are samples: which examples gave the same samples whatever the nudge, hence no contrast."""

    @property
    def settled(self) -> Bool[Array, " batch"]:
        """Which examples settled in all phases; only these count in `value` and `gradient`."""
        return self.result == RESULT.settled


class Estimator(eqx.Module):
    """Turns a few equilibria of a batch into the gradient of the mean cost. Subclasses write `estimate`."""

    solver: eqx.AbstractVar[Solver]
    """What settles the free phases."""

    only_settled: ClassVar[bool] = True
    """Whether examples that did not settle are left out of value and gradient."""

    def __call__(
        self,
        system: System,
        cost: Cost,
        inputs: PyTree,
        targets: PyTree,
        *,
        start: PyTree | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Estimate:
        """Estimate the gradient on a batch.

        Args:
            system: The system; its inexact arrays are differentiated.
            cost: What is wanted of the output.
            inputs: Inputs, leading axis the batch.
            targets: Targets, leading axis the batch.
            start: States to begin the free phase at, leading axis the batch; `initial_state` by default.
            key: Random key, where the physics or the rule is random.

        Returns:
            The estimate.

        Raises:
            ValueError: if shapes do not fit, or inputs or targets hold NaN.
        """
        inputs, targets = jax.tree.map(jnp.asarray, (inputs, targets))
        check_batch(system, inputs, targets)
        return self.estimate(system, cost, inputs, targets, start, key)

    @abc.abstractmethod
    def estimate(
        self,
        system: System,
        cost: Cost,
        inputs: PyTree,
        targets: PyTree,
        start: PyTree | None,
        key: PRNGKeyArray | None,
    ) -> Estimate:
        """What `__call__` does, on a batch of JAX arrays that has been checked."""

    def free_phase(
        self,
        system: System,
        inputs: PyTree,
        start: PyTree | None,
        keys: Key[Array, " batch"] | UInt32[Array, "batch word"] | None,
    ) -> AbstractEquilibrium:
        """The free equilibria of a batch, settled as for an estimate."""
        return free_phase(system, self.solver, inputs, start, keys)


def map_batch(fn: Callable, solver: Solver, chunk: int | None = None) -> Callable:
    """`fn` over the leading axis of all arguments: by `vmap`, or one after the other for a solver on the host.

    With `chunk`, so many examples at a time: they wait for the slowest of their chunk, not of the batch.
    """
    if not solver.host:
        if chunk is None:
            return jax.vmap(fn)
        return lambda *arguments: jax.lax.map(lambda each: fn(*each), arguments, batch_size=chunk)

    def one_by_one(*arguments):
        count = jax.tree.leaves(arguments)[0].shape[0]
        # To index a JAX array from the host costs more than many a simulator's answer.
        leaves, structure = jax.tree.flatten(arguments)
        rows = [_rows(leaf) for leaf in leaves]
        results = [fn(*jax.tree.unflatten(structure, [row[i] for row in rows])) for i in range(count)]
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *results)

    return one_by_one


def _rows(leaf):
    """The rows of an array, as NumPy's; keys, which have no such form, at one go."""
    return _unstacked(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


@jax.jit
def _unstacked(keys):
    return tuple(keys)


def free_phase(
    system: System,
    solver: Solver,
    inputs: PyTree,
    start: PyTree | None,
    keys: Key[Array, " batch"] | UInt32[Array, "batch word"] | None,
    chunk: int | None = None,
) -> AbstractEquilibrium:
    """The free equilibria of a batch, `chunk` examples at a time."""

    def settle_one(x, begin, key):
        begin = system.initial_state(x) if begin is None else begin
        return solver.solve(system, x, begin, free=None, key=key)

    return map_batch(settle_one, solver, chunk)(inputs, start, keys)


def value_and_outputs(
    system: System,
    cost: Cost,
    free: AbstractEquilibrium,
    targets: PyTree,
    good: Bool[Array, " batch"],
    loss: Callable[[AbstractEquilibrium, PyTree], Inexact[Array, ""]] | None = None,
):
    """Mean loss over the good examples (the expected cost, unless `loss` says otherwise), and the outputs of all."""
    outputs = jax.vmap(lambda eq: eq.expect(system.output))(free)
    if loss is None:
        costs = jax.vmap(lambda eq, y: eq.expect(lambda s: cost(system.output(s), y)))(free, targets)
    else:
        costs = jax.vmap(loss)(free, targets)
    count = jnp.maximum(jnp.sum(good), 1).astype(costs.real.dtype)
    value = jnp.sum(jnp.where(good, costs, 0)) / count
    return jnp.where(jnp.any(good), value, jnp.nan), outputs


def mean_gradient(
    objective: Callable[[System, PyTree, PyTree], Inexact[Array, ""]],
    system: System,
    inputs: PyTree,
    phases: PyTree,
    good: Bool[Array, " batch"],
    chunk: int | None = None,
) -> PyTree:
    """Gradient in the system of the mean over good examples of `objective(system, x, phases)`.

    Examples that are not good are replaced in *states and inputs* by the first good one, because 0 * inf is NaN.

    Args:
        objective: Scalar of one example; `phases` is whatever the estimator contrasts, with states held fixed.
        system: The system.
        inputs: Batch of inputs.
        phases: Batch of phases.
        good: Which examples count.
        chunk: How many examples at a time; all at once by default.
    """
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    inputs, phases = (jax.lax.stop_gradient(_only(good, tree)) for tree in (inputs, phases))
    number = jnp.maximum(jnp.sum(good), 1)

    def part(inputs, phases, good):
        def total(parameters):
            combined = eqx.combine(parameters, rest)
            each = jax.vmap(lambda x, p: objective(combined, x, p))(inputs, phases)
            return jnp.sum(jnp.where(good, each, 0)) / number.astype(each.dtype)

        return jax.grad(total)(parameters)

    batch = inputs, phases, good
    if chunk is None:
        return part(*batch)
    whole = good.size // chunk
    chunks = jax.tree.map(lambda leaf: leaf[: whole * chunk].reshape(whole, chunk, *leaf.shape[1:]), batch)
    rest_of_batch = jax.tree.map(lambda leaf: leaf[whole * chunk :], batch)

    def add(gradient, each):
        return jax.tree.map(jnp.add, gradient, part(*each)), None

    gradient, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, parameters), chunks)
    return gradient if good.size % chunk == 0 else add(gradient, rest_of_batch)[0]


def gradient_error(
    objective: Callable[[System, PyTree, PyTree], Inexact[Array, ""]],
    system: System,
    inputs: PyTree,
    phases: Callable[[Int[Array, ""]], PyTree],
    good: Bool[Array, " batch"],
    groups: int,
) -> PyTree:
    """Standard error of `mean_gradient`, from the gradients of independent groups of samples.

    Two trees of the size of the gradient are held, whatever the number of groups.

    Args:
        objective: As in `mean_gradient`.
        system: The system.
        inputs: Batch of inputs.
        phases: The batch of phases of a given group.
        good: Which examples count.
        groups: How many groups there are, at least 2.
    """

    def gather(index, moments):
        mean, squares = moments
        new = mean_gradient(objective, system, inputs, phases(index), good)
        count = (index + 1).astype(jax.tree.leaves(new)[0].dtype)
        moved = jax.tree.map(lambda m, g: m + (g - m) / count, mean, new)
        squares = jax.tree.map(lambda q, g, m, n: q + (g - m) * (g - n), squares, new, mean, moved)
        return moved, squares

    parameters = eqx.filter(system, eqx.is_inexact_array)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    _, squares = jax.lax.fori_loop(0, groups, gather, (zeros, zeros))
    return jax.tree.map(lambda q: jnp.sqrt(q / (groups * (groups - 1))), squares)


def _only(good, tree):
    """Rows of examples that are not good, replaced by the first good one: energies may be infinite at zero."""
    first, some = jnp.argmax(good), jnp.any(good)

    def keep(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        stand_in = jnp.where(some, leaf[first], jnp.zeros_like(leaf[0]))
        return jnp.where(good.reshape(good.shape + (1,) * (leaf.ndim - 1)), leaf, stand_in)

    return jax.tree.map(keep, tree)


def batch_size(inputs: PyTree) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(inputs)[0].shape[0]


def check_batch(system: System, inputs: PyTree, targets: PyTree) -> None:
    """Raise ValueError for batches that cannot be right, before anything is traced."""
    shapes = {
        f"`{name}`": np.shape(leaf)
        for name, tree in (("inputs", inputs), ("targets", targets))
        for leaf in jax.tree.leaves(tree)
    }
    if not jax.tree.leaves(inputs):
        raise ValueError("`inputs` holds no array; give a batch, leading axis the example.")
    lengths = {shape[0] if shape else None for shape in shapes.values()}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"`inputs` and `targets` must share their leading axis, one entry per example; got shapes {shapes}. "
            "For a single example add an axis: `inputs[None]`."
        )
    if lengths == {0}:
        raise ValueError("The batch is empty; give at least one example.")
    for name, tree in (("inputs", inputs), ("targets", targets)):
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
                continue
            if not np.isfinite(np.asarray(leaf)).all():
                index = int(np.argwhere(~np.isfinite(np.asarray(leaf)))[0][0])
                raise ValueError(f"`{name}` holds NaN or infinity, first in example {index}; clean the data.")
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    state = eqx.filter_eval_shape(system.initial_state, first)
    check_energy(system, state, first)
