r"""Costs: what is wanted of the output, one example at a time.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, sections 2.1 and 5.3.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int, PyTree

__all__ = ["Cost", "CrossEntropy", "SquaredError"]


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
        if jnp.issubdtype(jnp.asarray(targets).dtype, jnp.integer):
            if jnp.ndim(targets) != 0:
                raise ValueError(
                    f"A class index must be a scalar per example; `targets` has shape {jnp.shape(targets)}."
                )
            targets = jax.nn.one_hot(targets, output.shape[-1], dtype=output.dtype)
        if jnp.shape(targets) != jnp.shape(output):
            raise ValueError(
                f"`targets` of shape {jnp.shape(targets)} do not fit {output.shape[-1]} labels; "
                "give one-hot rows or class indices."
            )
        return jax.nn.logsumexp(output) - jnp.sum(targets * output)
