r"""Updates as devices make them: stages between the ideal update and the parameters, as optax transformations.

A device of range $[w_\mathrm{min}, w_\mathrm{max}]$ changes by pulses of about $\Delta =
\mathtt{dw\_min}\,(w_\mathrm{max} - w_\mathrm{min})$. A
wanted change becomes the number of pulses that is right in the mean (stochastic rounding), and each pulse may
be off by a
factor of its device (`_dtod`), of its own (`_std`), of its direction (`up_down`) and of the device's value
(soft bounds).
Names and meaning are those of the IBM Analog Hardware Acceleration Kit. A stage with everything off is the
identity, bit for bit.

Source:
    M. Rasch et al., A flexible and fast PyTorch toolkit for simulating training and inference on analog crossbar
    arrays, 2021.
"""

import fnmatch
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from eqprop.settle.base import Solver, settle
from eqprop.settle.measured import Measured
from eqprop.substrates.circuit.imperfections import Chip, to_levels
from eqprop.substrates.circuit.nudging import check_nudge
from eqprop.system import System
from eqprop.train.checkpoint import leaf_name
from eqprop.train.settings import Settings

__all__ = ["DeviceSettings", "as_devices", "warn_of_lost_nudge"]


class DeviceSettings(Settings):
    """What is imperfect, in reading and in writing. The defaults are ideal."""

    parameters: str = "conductances.*"
    """Which parameters are devices, by name or pattern."""
    w_min: float = 0.0
    """Smallest value that a device can hold."""
    w_max: PositiveFloat = 1.0
    """Largest."""
    w_min_dtod: NonNegativeFloat = 0.0
    """Spread of the smallest value from device to device, relative to the range."""
    w_max_dtod: NonNegativeFloat = 0.0
    """Spread of the largest, relative to the range."""
    response: Literal["constant_step", "soft_bounds", "sign"] = "constant_step"
    """Pulses of equal size; pulses that shrink towards the bound they go to; or one pulse for each sign (Manhattan)."""
    dw_min: NonNegativeFloat = 0.0
    """Size of a pulse, relative to the range; 0 for changes of any size."""
    dw_min_dtod: NonNegativeFloat = 0.0
    """Spread of it from device to device, relative."""
    dw_min_std: NonNegativeFloat = 0.0
    """Spread of it from cycle to cycle, relative."""
    up_down: float = Field(default=0.0, gt=-1, lt=1)
    """Asymmetry: upward pulses are larger by this fraction, downward ones smaller."""
    up_down_dtod: NonNegativeFloat = 0.0
    """Spread of the asymmetry from device to device."""
    levels: int | None = Field(default=None, ge=2)
    """Values that a device can hold, reached by stochastic rounding."""
    corrupt_devices_prob: float = Field(default=0.0, ge=0, le=1)
    """Fraction of devices that are stuck."""
    corrupt_devices_range: float = Field(default=0.0, ge=0, le=1)
    """Stuck devices hold a value within this fraction of the range: 0 is open."""
    lifetime: NonNegativeFloat = 0.0
    """Updates after which a device has drifted to 1/e of its value above `w_min`; 0 for no drift."""
    diffusion: NonNegativeFloat = 0.0
    """Random walk of each device at each update, relative to the range."""
    read_noise: NonNegativeFloat = 0.0
    """Standard deviation of each voltage reading. [V]"""
    offset: NonNegativeFloat = 0.0
    """Spread of the voltage readings' offsets from node to node. [V]"""
    adc_bits: int | None = Field(default=None, ge=1)
    """Of the converter that reads voltages."""
    adc_range: PositiveFloat = 1.0
    """It reads from minus to plus this. [V]"""
    chip: NonNegativeInt = 0
    """Which chip: the seed of all that is fixed from device to device."""

    @property
    def ideal_updates(self) -> bool:
        """Whether updates are made as wanted."""
        off = DeviceSettings(**{k: getattr(self, k) for k in ("parameters", "w_min", "w_max", "chip")})
        reading = ("read_noise", "offset", "adc_bits", "adc_range")
        return self.model_copy(update={k: getattr(off, k) for k in reading}) == off

    def solver(self, solver: Solver) -> Solver:
        """The solver with readings as imperfect as these; the solver itself if they are ideal."""
        if self.read_noise == 0 and self.offset == 0 and self.adc_bits is None:
            return solver
        chip = jax.random.fold_in(jax.random.key(self.chip), 1)
        return Measured(solver, self.read_noise, self.offset, self.adc_bits, self.adc_range, chip)

    def optimiser(self, optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimiser followed by devices; the optimiser itself if these are ideal."""
        return optimiser if self.ideal_updates else optax.chain(optimiser, as_devices(self))

    def held(self) -> Chip:
        """What such a chip does to a system trained elsewhere: for `Chip.deploy`."""
        return Chip(
            self.w_min,
            self.w_max,
            self.w_min_dtod,
            self.w_max_dtod,
            levels=self.levels,
            corrupt_devices_prob=self.corrupt_devices_prob,
            corrupt_devices_range=self.corrupt_devices_range,
        )


def warn_of_lost_nudge(
    system: System,
    solver: Solver,
    beta: float,
    inputs: Float[Array, " input"],
    targets: Float[Array, " output"],
    *,
    read_noise: float,
    voltage_scale: float | None = None,
) -> None:
    """Warn (`WeakNudge`) where the nudge of a typical example drowns in read noise, before hours are spent on it.

    Args:
        system: The circuit.
        solver: Settles its free phase.
        beta: Nudging strength. [S]
        inputs: Of one example.
        targets: Of it. [V]
        read_noise: Standard deviation of a reading. [V]
        voltage_scale: As for `check_nudge`; the largest node voltage by default, which suits ideal diodes. [V]
    """
    free = settle(system, inputs, solver, throw=False)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(free.restart))
    scale = largest if voltage_scale is None else voltage_scale
    force = targets - system.output(free.restart)
    check_nudge(beta, system, free.restart, inputs, force, read_noise=read_noise, voltage_scale=scale)


class DevicesState(NamedTuple):
    """Updates made so far."""

    count: Int[Array, ""]


def as_devices(settings: DeviceSettings) -> optax.GradientTransformation:
    """Turn wanted updates into those that devices make; last in a chain."""
    key = jax.random.key(settings.chip)

    def update(updates, state, parameters=None):
        if parameters is None:
            raise ValueError("`as_devices` needs the parameters: call `optimiser.update(updates, state, parameters)`.")
        now = jax.random.fold_in(jax.random.fold_in(key, 2), state.count)
        names = [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
        place = iter(range(len(names)))

        def made(change, value):
            i = next(place)
            if not fnmatch.fnmatchcase(names[i], settings.parameters):
                return change
            fixed = jax.random.fold_in(jax.random.fold_in(key, 0), i)
            return _written(settings, fixed, jax.random.fold_in(now, i), value, change) - value

        return jax.tree.map(made, updates, parameters), DevicesState(state.count + 1)

    def init(parameters):
        del parameters
        return DevicesState(jnp.zeros((), jnp.int32))

    return optax.GradientTransformation(init, update)


def _written(
    s: DeviceSettings,
    fixed: PRNGKeyArray,
    now: PRNGKeyArray,
    value: Float[Array, "*device"],
    change: Float[Array, "*device"],
) -> Float[Array, "*device"]:
    """The devices' values after one update."""
    span = s.w_max - s.w_min
    keys = jax.random.split(now, 4)
    new = value + _pulsed(s, fixed, keys, value, change, span)
    if s.lifetime > 0:
        new = s.w_min + (new - s.w_min) * jnp.exp(jnp.asarray(-1 / s.lifetime, value.dtype))
    if s.diffusion > 0:
        new = new + s.diffusion * span * jax.random.normal(keys[2], value.shape, value.dtype)
    new = jnp.clip(new, *s.held().limits(fixed, value))
    if s.levels is not None:
        new = to_levels(new, s.w_min, s.w_max, s.levels, key=keys[3])
    if s.corrupt_devices_prob > 0:
        new = s.held().pin(fixed, new)
    return new


def _pulsed(s, fixed, keys, value, change, span):
    """The change that pulses make of a wanted one."""
    if s.response == "sign":
        change = jnp.sign(change) * (s.dw_min if s.dw_min > 0 else 1e-3) * span
    if s.dw_min > 0:
        pulses = jnp.floor(
            jnp.abs(change) / (s.dw_min * span) + jax.random.uniform(keys[0], change.shape, change.dtype)
        )
        change = jnp.sign(change) * pulses * s.dw_min * span
    else:
        pulses = jnp.ones_like(change)
    if s.dw_min_dtod > 0:
        drawn = jax.random.normal(jax.random.fold_in(fixed, 4), change.shape, change.dtype)
        change = change * jnp.maximum(1 + s.dw_min_dtod * drawn, 0)
    if s.dw_min_std > 0:
        # The noise of n pulses adds up to sqrt(n) of one's: relative to the change, 1/sqrt(n).
        drawn = jax.random.normal(keys[1], change.shape, change.dtype)
        change = change * (1 + s.dw_min_std * drawn / jnp.sqrt(jnp.maximum(pulses, 1)))
    if s.up_down != 0 or s.up_down_dtod > 0:
        drawn = jax.random.normal(jax.random.fold_in(fixed, 5), change.shape, change.dtype)
        change = change * (1 + jnp.sign(change) * (s.up_down + s.up_down_dtod * drawn))
    if s.response == "soft_bounds":
        # Steps shrink linearly towards the bound they go to, and are whole in the middle of the range.
        upward, downward = 2 * (s.w_max - value) / span, 2 * (value - s.w_min) / span
        change = change * jnp.where(change > 0, upward, downward)
    return change
