r"""Costs: what is wanted of the output, one example at a time.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, sections 2.1 and 5.3.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PyTree

__all__ = ["Cost", "CrossEntropy", "ErrorRate", "FunctionCost", "PhaseError", "RunningCost", "SquaredError"]


class Cost(eqx.Module):
    """A differentiable scalar of the output and the targets of one example."""

    @abc.abstractmethod
    def __call__(self, output: PyTree, targets: PyTree) -> Inexact[Array, ""]:
        """The cost of one example."""


class SquaredError(Cost):
    r"""Half the squared distance, $C = \tfrac12\lVert o - y\rVert^2$."""

    def __call__(self, output, targets):
        outputs, wanted = jax.tree.leaves(output), jax.tree.leaves(targets)
        for o, y in zip(outputs, wanted, strict=True):
            if jnp.shape(o) != jnp.shape(y):
                raise ValueError(
                    f"`targets` of shape {jnp.shape(y)} do not fit the output of shape {jnp.shape(o)}; "
                    "give one target per output (classes as one-hot rows), or use `CrossEntropy`."
                )
        return sum(0.5 * jnp.sum((o - y) ** 2) for o, y in zip(outputs, wanted, strict=True))


class CrossEntropy(Cost):
    r"""Softmax cross-entropy, $C = \log\sum_j e^{o_j} - \langle y, o\rangle$; $y$ one-hot, or a class index."""

    def __call__(
        self,
        output: Inexact[Array, " label"],
        targets: Inexact[Array, "..."] | Int[Array, "..."],
    ) -> Inexact[Array, ""]:
        targets = _one_hot(output, targets)
        return jax.nn.logsumexp(output) - jnp.sum(targets * output)


class ErrorRate(Cost):
    r"""Probability of a wrong label, $C = 1 - \langle y, o\rangle$, for a categorical output unit.

    Targets as for `CrossEntropy`. Linear in the output: a field on one value of the unit.
    """

    def __call__(
        self,
        output: Inexact[Array, " label"],
        targets: Inexact[Array, "..."] | Int[Array, "..."],
    ) -> Inexact[Array, ""]:
        return 1 - jnp.sum(_one_hot(output, targets) * output)


class RunningCost(Cost):
    r"""A cost at each of many times, $C = \sum_k w_k\, c(o_k, y_k)$; outputs and targets have a leading axis of times.

    Args:
        cost: Of the output and the target at one time.
        weights: Those of the sum; with the time steps as weights the sum is an integral. One for all, or one a time.
    """

    cost: Cost
    weights: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, cost: Cost, weights: float | Float[np.ndarray, " time"]):
        self.cost = cost
        self.weights = tuple(float(w) for w in np.atleast_1d(weights))

    def __call__(self, output, targets):
        times = jax.tree.leaves(output)[0].shape[0]
        if len(self.weights) not in (1, times):
            raise ValueError(
                f"`RunningCost.weights` holds {len(self.weights)} weights for {times} times; give one for each."
            )
        each = jax.vmap(self.cost)(output, targets)
        return (
            jnp.sum(jnp.asarray(self.weights, each.dtype) * each, axis=0)
            if len(self.weights) == times
            else (self.weights[0] * jnp.sum(each))
        )

    def at(self, time: Int[Array, ""], output: PyTree, targets: PyTree) -> Inexact[Array, ""]:
        """The weighted cost at one time."""
        value = self.cost(output, targets)
        if len(self.weights) == 1:
            return self.weights[0] * value
        return jnp.asarray(self.weights, value.dtype)[time] * value


class PhaseError(Cost):
    r"""$C = \sum_i 1 - \cos(o_i - y_i)$ for outputs that are angles [rad]: the same for $o$ and $o + 2\pi$.

    Half the squared distance for small errors, and bounded on both sides, so that negative nudges are safe.
    """

    def __call__(self, output, targets):
        outputs, wanted = jax.tree.leaves(output), jax.tree.leaves(targets)
        for o, y in zip(outputs, wanted, strict=True):
            if jnp.shape(o) != jnp.shape(y):
                raise ValueError(
                    f"`targets` of shape {jnp.shape(y)} do not fit the output phases of shape {jnp.shape(o)}; "
                    "give one angle in radians per output."
                )
        return sum(jnp.sum(1 - jnp.cos(o - y)) for o, y in zip(outputs, wanted, strict=True))


class FunctionCost(Cost):
    """A cost that is any differentiable function of (output, targets): the validation loss of a learner, say."""

    function: Callable[[PyTree, PyTree], Inexact[Array, ""]] = eqx.field(static=True)

    def __call__(self, output, targets):
        return self.function(output, targets)


def _one_hot(output, targets):
    """The targets as one-hot rows; class indices are spread."""
    if jnp.issubdtype(jnp.asarray(targets).dtype, jnp.integer):
        if jnp.ndim(targets) != 0:
            raise ValueError(f"A class index must be a scalar per example; `targets` has shape {jnp.shape(targets)}.")
        targets = jax.nn.one_hot(targets, output.shape[-1], dtype=output.dtype)
    if jnp.shape(targets) != jnp.shape(output):
        raise ValueError(
            f"`targets` of shape {jnp.shape(targets)} do not fit {output.shape[-1]} labels; "
            "give one-hot rows or class indices."
        )
    return targets
