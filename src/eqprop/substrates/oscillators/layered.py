"""Layers of XY oscillators that classify."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqprop.substrates.oscillators.phase import rest_phase
from eqprop.system import System

__all__ = ["LayeredOscillators"]


class LayeredOscillators(System):
    r"""Layers of XY oscillators that classify: fields linear in the inputs, couplings between neighbouring layers.

    Hidden oscillators of the first layer feel the field $(x A + a)\cos\varphi + (x B + b)\sin\varphi$; output
    oscillators a fixed field towards 0, so that 0 is undecided, and they answer by the way they turn. Train with
    `PhaseError` and targets less than $\pi$ apart, $\pm 1$ say: an answer off by $\pi$ feels no force.

    Args:
        sizes: Inputs, oscillators of each hidden layer, outputs.
        key: Random key for the initial weights.
        pin: Strength of the outputs' field towards 0; positive. [coupling]
        gain: Scale of the initial weights, normal with gain/sqrt(fan-in).

    Raises:
        ValueError: if there are fewer than three sizes, or the pin is not positive.
    """

    cosine: Float[Array, "input unit"]
    sine: Float[Array, "input unit"]
    couplings: tuple[Float[Array, "pre post"], ...]
    biases: tuple[Float[Array, "2 unit"], ...]
    pin: float = eqx.field(static=True)

    holomorphic = True

    def __init__(self, sizes: Sequence[int], *, key: PRNGKeyArray, pin: float = 1.0, gain: float = 0.5):
        if len(sizes) < 3 or min(sizes) < 1:
            raise ValueError(f"`sizes` must name inputs, hidden layers and outputs, all positive; got {list(sizes)}.")
        if not pin > 0:
            raise ValueError(
                f"`pin` must be positive; got {pin}. Without it the outputs' answers ±pi/2 have no reference phase."
            )
        keys = jax.random.split(key, len(sizes) - 1)
        # Inputs turn the oscillators first, and learn to strengthen or weaken their fields.
        self.sine = gain / math.sqrt(sizes[0]) * jax.random.normal(keys[0], tuple(sizes[:2]))
        self.cosine = jnp.zeros_like(self.sine)
        self.couplings = tuple(
            gain / math.sqrt(pre) * jax.random.normal(k, (pre, post))
            for k, pre, post in zip(keys[1:], sizes[1:-1], sizes[2:], strict=False)
        )
        # Every hidden oscillator begins with a unit field towards 0, which holds its rotation.
        self.biases = tuple(jnp.zeros((2, n)).at[0].set(float(k < len(sizes) - 2)) for k, n in enumerate(sizes[1:]))
        self.pin = float(pin)

    def energy(self, state, inputs):
        fields = self._fields(inputs)
        total = 0.0
        for phase, (along, across) in zip(state, fields, strict=True):
            total = total - jnp.sum(along * jnp.cos(phase)) - jnp.sum(across * jnp.sin(phase))
        for lower, upper, coupling in zip(state, state[1:], self.couplings, strict=False):
            aligned = jnp.dot(jnp.dot(jnp.cos(lower), coupling), jnp.cos(upper))
            total = total - aligned - jnp.dot(jnp.dot(jnp.sin(lower), coupling), jnp.sin(upper))
        return total

    def initial_state(self, inputs):
        # The direction of each oscillator's own field: the rest state without couplings, hence of the branch nearest
        # to it.
        return tuple(jnp.arctan2(across, along) for along, across in self._fields(inputs))

    def output(self, state):
        return state[-1]

    def blocks(self):
        layers = range(len(self.biases))
        return tuple(tuple(bool(k % 2 == parity) for k in layers) for parity in range(2))

    def minimise_block(self, block, state, inputs, force):
        if jnp.iscomplexobj(state[0]):
            return None
        fields = self._fields(inputs)
        rested = list(state)
        for k in range(block, len(state), 2):
            along, across = fields[k]
            if k > 0:
                along = along + jnp.dot(jnp.cos(state[k - 1]), self.couplings[k - 1])
                across = across + jnp.dot(jnp.sin(state[k - 1]), self.couplings[k - 1])
            if k + 1 < len(state):
                along = along + jnp.dot(self.couplings[k], jnp.cos(state[k + 1]))
                across = across + jnp.dot(self.couplings[k], jnp.sin(state[k + 1]))
            torque = jnp.zeros_like(state[k]) if force is None else force[k]
            rested[k] = rest_phase(along, across, torque, state[k])
        return tuple(rested)

    def _fields(self, inputs):
        if jnp.shape(inputs) != self.cosine.shape[:1]:
            raise ValueError(
                f"`inputs` must be a vector of {self.cosine.shape[0]} numbers; got shape {jnp.shape(inputs)}."
            )
        first = (jnp.dot(inputs, self.cosine), jnp.dot(inputs, self.sine))
        fields = [(bias[0], bias[1]) for bias in self.biases]
        fields[0] = (fields[0][0] + first[0], fields[0][1] + first[1])
        fields[-1] = (fields[-1][0] + self.pin, fields[-1][1])
        return fields
