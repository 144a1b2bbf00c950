r"""Recurrent Hamiltonian networks: sequences drive coupled oscillators, a linear readout tells them apart.

$$H = \sum_i \frac{\omega_i p_i^2}{2} + \sum_i \frac{\omega_i q_i^2}{2} + \sum_i \log\cosh\bigl(W q + U u(t) +
b\bigr)_i$$

The harmonic part remembers, with frequencies $\omega_i$ spread over the time scales of the data; the rest couples and
bends. Features are means of the positions over stretches of the run; the readout is linear in them.

Source:
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025
    (Hamiltonian recurrent units); T. K. Rusch and S. Mishra, UnICORNN, 2021 (networks of undamped oscillators).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from eqprop.motion import EverySample, Pooled, Stack, Window
from eqprop.substrates.trajectory.oscillators import Started, log_cosh, run_settings

__all__ = ["RecurrentHamiltonian", "recurrent_stack"]


class RecurrentHamiltonian(Started):
    """A recurrent network of oscillators, driven by a sequence [sample, channel] (or [sample], for one channel).

    Args:
        channels: Numbers in each sample of the drive.
        units: Number of oscillators.
        labels: Numbers in the output.
        key: Random key.
        step: Time step.
        substeps: Kicks for each sample.
        friction: Rate at which momenta decay, so that the network forgets; see `Hamiltonian.friction_rate`.
        frequencies: Lowest and highest frequency at the start, spread geometrically. `step` times the highest must
            stay well below 2.
        coupling: Scale of the recurrent weights at the start.
        gain: Scale of the input weights at the start.
        window: Which readings become features: `Pooled(pools)`, or `EverySample()` to forecast or to drive another
            block.

    Raises:
        ValueError: for sizes that are not positive, or frequencies that the step cannot follow.
    """

    log_frequency: Float[Array, " unit"]
    weight: Float[Array, "unit unit"]
    input_weight: Float[Array, "unit channel"]
    bias: Float[Array, " unit"]
    readout_weight: Float[Array, "feature label"]
    readout_bias: Float[Array, " label"]
    position: Float[Array, " unit"]
    momentum: Float[Array, " unit"]
    step: float = eqx.field(static=True)
    samples: int | None = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    friction: float = eqx.field(static=True)
    window: Window

    def __init__(
        self,
        channels: int,
        units: int,
        labels: int,
        *,
        key: PRNGKeyArray,
        step: float = 0.5,
        substeps: int = 1,
        friction: float = 0.0,
        frequencies: tuple[float, float] = (0.05, 1.0),
        coupling: float = 0.5,
        gain: float = 1.0,
        window: EverySample | Pooled | None = None,
    ):
        window = Pooled(1) if window is None else window
        self.step, self.samples, self.substeps, self.friction, self.window = run_settings(
            min(channels, units, labels), step, None, substeps, friction, window
        )
        low, high = frequencies
        if not 0 < low <= high or step * high >= 1.8:
            raise ValueError(
                "`frequencies` must be positive, lowest first, with step times the highest below 1.8; got "
                f"{frequencies} and step = {step}. Lower the step."
            )
        rows = 1 if isinstance(window, EverySample) else window.rows
        keys = jax.random.split(key, 4)
        self.log_frequency = jnp.linspace(math.log(low), math.log(high), units)
        self.weight = coupling * jax.random.normal(keys[0], (units, units)) / math.sqrt(units)
        self.input_weight = gain * jax.random.normal(keys[1], (units, channels)) / math.sqrt(channels)
        self.bias = 0.5 * jax.random.normal(keys[2], (units,))
        self.readout_weight = jax.random.normal(keys[3], (rows * units, labels)) / math.sqrt(rows * units)
        self.readout_bias = jnp.zeros(labels)
        self.position, self.momentum = jnp.zeros(units), jnp.zeros(units)

    def kinetic(self, momentum):
        return 0.5 * jnp.sum(jnp.exp(self.log_frequency) * momentum**2)

    def potential(self, position, drive):
        drives = jnp.dot(self.weight, position) + jnp.dot(self.input_weight, drive) + self.bias
        return 0.5 * jnp.sum(jnp.exp(self.log_frequency) * position**2) + jnp.sum(log_cosh(drives))

    def drive(self, inputs):
        return inputs[:, None] if inputs.ndim == 1 else inputs

    def readout(self, features: Inexact[Array, "row unit"]):
        """One output for pooled features; one for each sample where readings are kept one by one."""
        if isinstance(self.window, EverySample):
            return jnp.dot(features, self.readout_weight) + self.readout_bias[None]
        return jnp.dot(features.ravel(), self.readout_weight) + self.readout_bias


def recurrent_stack(
    channels: int,
    units: tuple[int, ...],
    labels: int,
    *,
    key: PRNGKeyArray,
    window: Window | None = None,
    step: float = 0.5,
    substeps: int = 1,
    friction: float = 0.0,
    frequencies: tuple[float, float] = (0.05, 1.0),
    coupling: float = 0.5,
    gain: float = 1.0,
) -> Stack:
    """Recurrent Hamiltonian networks one behind the other; the last reads out `labels` numbers.

    Args:
        channels: As in `RecurrentHamiltonian`.
        units: Oscillators of each block; as many numbers go from each block to the next.
        labels: Numbers in the output.
        key: Random key.
        window: Of the last block.
        step: Of all blocks.
        substeps: Of all blocks.
        friction: Of all blocks.
        frequencies: Of all blocks.
        coupling: Of all blocks.
        gain: Of all blocks.

    Raises:
        ValueError: for no blocks.
    """
    if not units:
        raise ValueError("`units` is empty; give the oscillators of at least one block.")
    blocks = []
    for number, count in enumerate(units):
        last = number == len(units) - 1
        blocks.append(
            RecurrentHamiltonian(
                channels, count, labels if last else count,
                key=jax.random.fold_in(key, number),
                step=step,
                substeps=substeps,
                friction=friction,
                frequencies=frequencies,
                coupling=coupling,
                gain=gain,
                window=window if last else EverySample(),
            )
        )  # fmt: skip
        channels = count
    return Stack(tuple(blocks))
