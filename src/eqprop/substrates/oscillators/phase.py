"""The rest phase of one oscillator in a field and under a torque."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["rest_phase"]


def rest_phase(
    along: Float[Array, " unit"],
    across: Float[Array, " unit"],
    torque: Float[Array, " unit"],
    phase: Float[Array, " unit"],
) -> Float[Array, " unit"]:
    r"""The minimum of $-a\cos\varphi - b\sin\varphi - f\varphi$ nearest to `phase`, or a step along $f$.

    The minimum, $\arg(a + ib) + \arcsin(f/|a + ib|)$, exists where the oscillator is locked, $|f| \le |a + ib|$. [rad]
    """
    strength = jnp.hypot(along, across)
    locked = jnp.abs(torque) <= strength
    ratio = jnp.where(locked, torque, 0) / jnp.where(strength > 0, strength, 1)
    target = jnp.arctan2(across, along) + jnp.arcsin(ratio)
    turn = target - phase
    nearest = phase + turn - 2 * math.pi * jnp.round(turn / (2 * math.pi))
    return jnp.where(locked, nearest, phase + torque)
