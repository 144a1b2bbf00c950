r"""The leapfrog's drift, with friction and without; everything that runs a `Hamiltonian` system moves by it.

A step is a kick $p \to p - w\,V'(q)$ and a drift $q \to q + h\,K'(p)$. Both are exact sub-flows, and so is friction,
$p \to e^{-\gamma t}p$; the drift is taken between two halves of it, so that the step is its own adjoint. An echo runs
through the same moves with the momenta turned round, and gains where the run has lost.

Source:
    R. I. McLachlan and G. R. W. Quispel, Splitting methods, 2002 (conformal symplectic maps).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from eqprop.motion import Hamiltonian

__all__ = ["Point", "drift", "gain"]

Point = tuple[Inexact[Array, "*copy coordinate"], Inexact[Array, "*copy coordinate"]]
"""Position and momentum, of one example or of many."""

_LARGEST_EXPONENT = 700.0
"""Beyond it the exponential is no float64."""


def gain(system: Hamiltonian, samples: int) -> float:
    r"""How much an echo through that many samples amplifies, $e^{\gamma T}$; 1 without friction."""
    exponent = system.friction_rate() * system.step * (samples * system.substeps - 1)
    return math.exp(exponent) if exponent < _LARGEST_EXPONENT else math.inf


def drift(
    system: Hamiltonian, point: Point, time: Inexact[Array, ""], *, back: bool = False
) -> tuple[Point, Inexact[Array, "*copy coordinate"]]:
    """The leapfrog's move between two kicks: half of the friction, the drift, the other half. Self-adjoint.

    Args:
        system: The system.
        point: Position and momentum, of one example or of many. Of an echo the momentum that has been turned round.
        time: How long. [s]
        back: Whether this is an echo, which gains what the run has lost.

    Returns:
        Position and momentum after it, and the momentum in its middle.
    """
    position, momentum = point
    velocity = jax.grad(system.kinetic)
    velocity = jax.vmap(velocity) if momentum.ndim == 2 else velocity
    rate = system.friction_rate()
    if not rate:
        return (position + time * velocity(momentum), momentum), momentum
    half = jnp.exp((0.5 if back else -0.5) * rate * time)
    during = half * momentum
    return (position + time * velocity(during), half * during), during
