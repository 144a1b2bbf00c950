r"""The dead zone of discrete systems at low temperature: a wrong answer, and no contrast to learn from.

At $T = 0$ the ground state does not move until beta passes a threshold: the difference of the phases is then zero
although the answer is wrong, and no small beta helps. Beta is a margin there, not a small number.

Source:
    J. Laydevant, D. Markovic and J. Grollier, Training an Ising machine with equilibrium propagation, 2024.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from eqprop.gradient.estimate import Estimate

__all__ = ["DeadZone", "dead_zone"]


class DeadZone(eqx.Module):
    """How many examples of a batch are answered wrongly, and how many of those gave no contrast."""

    wrong: Int[Array, ""]
    dead: Int[Array, ""]
    examples: Bool[Array, " batch"]
    """Which examples are in the dead zone."""

    def __str__(self) -> str:
        told = f"{int(self.dead)} of {int(self.wrong)} wrong answers gave zero contrast"
        if int(self.dead) == 0:
            return f"{told}."
        return (
            f"{told}: the nudge does not reach past the gap to another answer at this temperature. Raise beta (it is a "
            "margin here: 1 to 50 times the couplings), raise `temperature`, or anneal with `hottest`."
        )


def dead_zone(estimate: Estimate, wrong: Bool[Array, " batch"]) -> DeadZone:
    """Count the examples that are wrong and did not respond to the nudge.

    Args:
        estimate: From `EquilibriumPropagation` with a sampler or `Enumeration`.
        wrong: Which examples are answered wrongly, by whatever measure counts: `jnp.sign(est.outputs) != targets`, say.

    Raises:
        ValueError: if the phases of the estimate are no ensembles.
    """
    if estimate.unmoved is None:
        raise ValueError(
            "`dead_zone` needs an estimate from phases that are ensembles (`Gibbs`, `Enumeration`); for single rest "
            "states look for `RESULT.nudge_lost` in `estimate.result`."
        )
    dead = wrong & estimate.unmoved & estimate.settled
    return DeadZone(jnp.sum(wrong), jnp.sum(dead), dead)
