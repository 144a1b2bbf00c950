r"""A chip that is not as drawn: mismatch, stuck devices, limited levels. Pure functions of a key.

Parameter names and meaning are those of the IBM Analog Hardware Acceleration Kit: `_dtod` is a spread from device to
device, relative to the nominal value; `corrupt_devices_prob` is the fraction of stuck devices.

Source:
    M. Rasch et al., A flexible and fast PyTorch toolkit for simulating training and inference on analog crossbar
    arrays, 2021.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqprop.system import System

__all__ = ["Chip", "from_aihwkit_range", "to_levels"]


class Chip(eqx.Module):
    """What one fabricated chip does to the parameters written to it. With everything off it changes nothing.

    Args:
        w_min: Smallest value that a device can hold. [the parameter's unit]
        w_max: Largest. [the parameter's unit]
        w_min_dtod: Spread of the smallest value from device to device, relative to the range.
        w_max_dtod: Spread of the largest, relative to the range.
        gain_dtod: Relative spread of the devices' values: a device holds its value times 1 plus so much.
        levels: Values that a device can hold, evenly from `w_min` to `w_max`; None for any.
        corrupt_devices_prob: Fraction of devices that are stuck.
        corrupt_devices_range: Stuck devices hold a value within this fraction of the range, from `w_min` on: 0 is open.
        read_noise: Relative noise of each device when the chip is read, once.
    """

    w_min: float = 0.0
    w_max: float = 1.0
    w_min_dtod: float = 0.0
    w_max_dtod: float = 0.0
    gain_dtod: float = 0.0
    levels: int | None = eqx.field(static=True, default=None)
    corrupt_devices_prob: float = 0.0
    corrupt_devices_range: float = 0.0
    read_noise: float = 0.0

    def __check_init__(self):
        if not self.w_min < self.w_max:
            raise ValueError(f"`Chip.w_min` = {self.w_min} must be less than `w_max` = {self.w_max}.")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"`Chip.levels` must be at least 2; got {self.levels}.")
        if not 0 <= self.corrupt_devices_prob <= 1:
            raise ValueError(f"`Chip.corrupt_devices_prob` must lie in [0, 1]; got {self.corrupt_devices_prob}.")

    def limits(
        self, key: PRNGKeyArray, value: Float[Array, "*device"]
    ) -> tuple[float | Float[Array, "*device"], float | Float[Array, "*device"]]:
        """Smallest and largest value that each device of a group can hold."""
        ends = []
        for index, (end, spread) in enumerate(((self.w_min, self.w_min_dtod), (self.w_max, self.w_max_dtod))):
            drawn = jax.random.normal(jax.random.fold_in(key, 6 + index), value.shape, value.dtype)
            ends.append(end + spread * (self.w_max - self.w_min) * drawn if spread > 0 else end)
        return ends[0], ends[1]

    def stuck(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Bool[Array, "*device"]:
        """Which devices of a group are stuck."""
        return jax.random.bernoulli(jax.random.fold_in(key, 1), self.corrupt_devices_prob, shape)

    def pin(self, key: PRNGKeyArray, value: Float[Array, "*device"]) -> Float[Array, "*device"]:
        """`value`, but for stuck devices, which hold what they hold."""
        if self.corrupt_devices_prob == 0:
            return value
        where = jax.random.uniform(jax.random.fold_in(key, 2), value.shape, value.dtype)
        own = self.w_min + self.corrupt_devices_range * (self.w_max - self.w_min) * where
        return jnp.where(self.stuck(key, value.shape), own, value)

    def hold(self, key: PRNGKeyArray, value: Float[Array, "*device"]) -> Float[Array, "*device"]:
        """What a group of devices holds when `value` was written."""
        spread = jax.random.fold_in(key, 0)
        if self.levels is not None:
            value = to_levels(value, self.w_min, self.w_max, self.levels)
        if self.gain_dtod > 0:
            value = value * (1 + self.gain_dtod * jax.random.normal(spread, value.shape, value.dtype))
        if self.gain_dtod > 0 or self.w_min_dtod > 0 or self.w_max_dtod > 0:
            value = jnp.clip(value, *self.limits(key, value))
        value = self.pin(key, value)
        if self.read_noise > 0:
            noise = jax.random.normal(jax.random.fold_in(key, 3), value.shape, value.dtype)
            value = value * (1 + self.read_noise * noise)
        return value

    def deploy(self, key: PRNGKeyArray, system: System, where: Callable[[System], list[Array]]) -> System:
        """The system as this chip holds it: trained clean, deployed on a mismatched chip.

        Args:
            key: Which chip: the same key is the same chip.
            system: The trained system.
            where: The parameters that are devices: `lambda net: list(net.conductances)`.
        """
        written = where(system)
        held = [self.hold(jax.random.fold_in(key, i), value) for i, value in enumerate(written)]
        return eqx.tree_at(where, system, held)


def to_levels(
    value: Float[Array, "*device"], low: float, high: float, levels: int, *, key: PRNGKeyArray | None = None
) -> Float[Array, "*device"]:
    """The nearest of evenly spaced levels; with a key, a neighbouring one at random, right in the mean."""
    step = (high - low) / (levels - 1)
    place = (jnp.clip(value, low, high) - low) / step
    if key is None:
        return low + step * jnp.round(place)
    chance = jax.random.uniform(key, value.shape, value.dtype)
    return jnp.clip(low + step * jnp.floor(place + chance), low, high)


def from_aihwkit_range(
    weight: Float[Array, "*device"], conductance_min: float, conductance_max: float
) -> Float[Array, "*device"]:
    """Conductances [S] from the toolkit's normalised weights in [-1, 1], by the affine map between the ranges."""
    return conductance_min + 0.5 * (weight + 1) * (conductance_max - conductance_min)
