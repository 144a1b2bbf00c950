r"""Settling doubled systems: scalars $A(m, d)$ of a state and its twin, which are saddles.

Descent would run away. The flow that settles crosses the two derivatives,
$\dot m = -\partial A/\partial d$, $\dot d = -\partial A/\partial m$: for $A = -\langle d, f(m)\rangle$ the mean
follows the field itself, and the difference its transposed slope. For feed-forward networks a step of size 1 is one
layer forward for the mean and one layer back for the difference, and the flow ends exactly after as many steps as
there are layers.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqprop.settle.base import IterativeSolver, rms, state_gradient

__all__ = ["DoubledFlow"]


class DoubledFlow(IterativeSolver):
    """The crossed flow of a system whose state is a pair of trees alike (mean, difference).

    Mean and difference are each judged against their own size: the difference is as small as the nudge, and all that is
    learned from.
    """

    step_size: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)
    rtol: float = 1e-5
    atol: float = 1e-12
    max_steps: int = 1_000

    def init(self, system, inputs, state, stats):
        pair = isinstance(state, tuple) and len(state) == 2
        if not pair or jax.tree.map(jnp.shape, state[0]) != jax.tree.map(jnp.shape, state[1]):
            raise ValueError(
                "`DoubledFlow` settles doubled systems, whose state is a pair of trees alike; "
                f"`{type(system).__name__}` has another state. Use `Newton`, `BlockDescent` or `GradientFlow`."
            )
        return

    def stats(self, carry):
        return {}

    def step(self, system, inputs, state, carry):
        by_mean, by_difference = state_gradient(system, state, inputs)

        moved = tuple(
            jax.tree.map(lambda p, s: p - self.step_size.astype(p.real.dtype) * s, part, slope)
            for part, slope in zip(state, (by_difference, by_mean), strict=True)
        )
        worst = jnp.maximum(*(_relative(new, old) for new, old in zip(moved, state, strict=True)))
        return moved, worst * rms(moved), carry


def _relative(new, old):
    """Size of the change over the size of what it changes; 0 where nothing moves."""
    change, size = rms(jax.tree.map(jnp.subtract, new, old)), rms(new)
    return jnp.where(change > 0, change / jnp.where(size > 0, size, 1), change)
