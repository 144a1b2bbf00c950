r"""A variant of nudging: the force added after the activation, $s \leftarrow \sigma(\mathrm{drive}) + \beta f$.

It is not the rest state of a nudged energy unless $\sigma' = 1$ at the nudged units, so gradients are off by a relative
amount that does not vanish with $\beta$. Here to compare with; `FixedPoint` nudges inside, and is exact.

Source:
    M. Ernoult et al., Updates of equilibrium prop match gradients of backprop through time in an RNN with static
    input, 2019.
"""

import jax
import jax.numpy as jnp

from eqprop.settle.base import IterativeSolver, real_dtype, rms
from eqprop.settle.descent import synchronous_change
from eqprop.system import Nudged, project

__all__ = ["OutsideNudge"]


class OutsideNudge(IterativeSolver):
    """Synchronous iteration with the nudge outside the activation; without a nudge it is `FixedPoint`."""

    rtol: float = 1e-5
    atol: float = 1e-7
    max_steps: int = 1_000

    def init(self, system, inputs, state, stats):
        return jnp.zeros((), real_dtype(state))

    def stats(self, carry):
        return {}

    def step(self, system, inputs, state, carry):
        free = system.system if isinstance(system, Nudged) else system
        moved = jax.tree.map(jnp.add, state, synchronous_change(free, inputs, state))
        if isinstance(system, Nudged):
            moved = project(system, jax.tree.map(jnp.add, moved, system.force(state)))
        change = jax.lax.stop_gradient(rms(jax.tree.map(jnp.subtract, moved, state)))
        return moved, change, carry
