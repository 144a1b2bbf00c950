r"""Nudging as a field: what a nudge energy $B(o)$ means to discrete output units.

A spin $\pm 1$ feels only the difference of $B$ between its two values, a field $-\tfrac12[B(+1) - B(-1)]$; a
categorical unit feels $-B$ at each of its values. So $\tfrac14(o - y)^2$ is the field $y/2$, although its slope at
$o = \pm 1$ is not.

Fields do not depend on the other units only if $B$ is a sum over output units. That is checked; a cost which couples
several discrete outputs (cross-entropy over spins, say) is refused.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

__all__ = ["categorical_field", "nudge_field"]

_COUPLED = (
    "The cost couples output units that are drawn together, so it is no field on each. Use a cost that is a sum over "
    "outputs (`SquaredError`), a single categorical output unit, or `nudge=Forced`."
)


def nudge_field(
    nudge: Callable[[Inexact[Array, " spin"]], Inexact[Array, ""]], count: int, dtype: np.dtype
) -> Inexact[Array, " spin"]:
    """The field of a nudge energy on `count` output spins.

    Args:
        nudge: Energy as a function of the output spins.
        count: Number of output spins.
        dtype: Of the spins.

    Returns:
        The field on each; the energy it stands for is minus field times spin.

    Raises:
        EquinoxRuntimeError: if the nudge is not a sum over the spins.
    """
    up = jnp.ones(count, dtype)
    flipped = 1 - 2 * jnp.eye(count, dtype=dtype)
    gaps = nudge(up) - jax.vmap(nudge)(flipped)
    if count < 2:
        return -gaps / 2
    corners = jnp.asarray(np.stack([-np.ones(count), np.where(np.arange(count) % 3 == 0, 1.0, -1.0)]), dtype)
    told = nudge(up) - jax.vmap(lambda corner: jnp.sum(jnp.where(corner < 0, gaps, 0)))(corners)
    return -_checked(gaps, jax.vmap(nudge)(corners), told) / 2


def categorical_field(
    nudge: Callable[[Inexact[Array, "unit level"]], Inexact[Array, ""]], count: int, levels: int, dtype: np.dtype
) -> Inexact[Array, "unit level"]:
    """The field of a nudge energy on each value of `count` categorical output units; as `nudge_field`."""
    eye = np.eye(levels)
    ground = np.tile(eye[0], (count, 1))
    trials = np.tile(ground, (count, levels, 1, 1))
    for unit in range(count):
        trials[unit, :, unit] = eye
    lowest = nudge(jnp.asarray(ground, dtype))
    gaps = jax.vmap(jax.vmap(nudge))(jnp.asarray(trials, dtype)) - lowest
    if count < 2:
        return -gaps
    corner = jnp.asarray(np.tile(eye[-1], (count, 1)), dtype)
    return -_checked(gaps, nudge(corner), lowest + jnp.sum(gaps[:, -1]))


def _checked(gaps, seen, told):
    size = jnp.max(jnp.abs(gaps))
    # Rounding of a sum over outputs in single precision stays well below a part in a thousand.
    return eqx.error_if(gaps, jnp.any(jnp.abs(seen - told) > 1e-3 * size), _COUPLED)
