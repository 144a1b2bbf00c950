"""Networks with one-way couplings: recurrent ones with free weights, and feed-forward ones."""

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqprop.substrates.activation import Activation, Linear, Tanh
from eqprop.substrates.field import Field

__all__ = ["AsymmetricNetwork", "FeedForward"]


class AsymmetricNetwork(Field):
    r"""A recurrent network with free weights, $f = -s + \sigma(W s + x U + b)$ where W need not be symmetric.

    Args:
        inputs: Number of inputs.
        units: Number of units; the last `outputs` of them are read.
        outputs: Number of outputs.
        key: Random key for the weights.
        gain: Spectral scale of W, normal with gain/sqrt(units): below 1 the network has one stable state.
    """

    weight: Float[Array, "unit unit"]
    drive: Float[Array, "input unit"]
    bias: Float[Array, " unit"]
    activation: Activation
    outputs: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        units: int,
        outputs: int,
        *,
        key: PRNGKeyArray,
        gain: float = 0.5,
        activation: Activation | None = None,
    ):
        if not 0 < outputs <= units:
            raise ValueError(f"`outputs` must lie between 1 and the {units} units; got {outputs}.")
        inner, outer = jax.random.split(key)
        self.weight = gain / math.sqrt(units) * jax.random.normal(inner, (units, units))
        self.drive = jax.random.normal(outer, (inputs, units)) / math.sqrt(inputs)
        self.bias = jnp.zeros(units)
        self.activation = Tanh() if activation is None else activation
        self.outputs = outputs

    def velocity(self, state, inputs):
        return self.activation(jnp.dot(inputs, self.drive) + jnp.dot(self.weight, state) + self.bias) - state

    def initial_state(self, inputs):
        return jnp.zeros(self.bias.shape, jnp.result_type(inputs, self.bias))

    def output(self, state):
        return state[-self.outputs :]


class FeedForward(Field):
    r"""A multilayer perceptron as a field: $f_k = \sigma(s_{k-1} W_k + b_k) - s_k$, couplings strictly one-way.

    Args:
        sizes: Inputs, units of each hidden layer, outputs.
        key: Random key for the weights, uniform within ±gain/sqrt(fan-in).
        activation: Of the hidden layers; outputs are linear.
        gain: Scale of the initial weights.

    Raises:
        ValueError: if there are fewer than two sizes.
    """

    weights: tuple[Float[Array, "pre post"], ...]
    biases: tuple[Float[Array, " unit"], ...]
    activation: Activation

    def __init__(
        self, sizes: Sequence[int], *, key: PRNGKeyArray, activation: Activation | None = None, gain: float = 1.0
    ):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"`sizes` must name inputs and at least one layer, all positive; got {list(sizes)}.")
        keys = jax.random.split(key, len(sizes) - 1)
        limits = [gain / math.sqrt(n) for n in sizes[:-1]]
        self.weights = tuple(
            jax.random.uniform(k, shape, minval=-limit, maxval=limit)
            for k, shape, limit in zip(keys, itertools.pairwise(sizes), limits, strict=True)
        )
        self.biases = tuple(jnp.zeros(n) for n in sizes[1:])
        self.activation = Tanh() if activation is None else activation

    def velocity(self, state, inputs):
        before = (inputs, *state[:-1])
        return tuple(
            activation(jnp.dot(pre, weight) + bias) - own
            for activation, pre, weight, bias, own in zip(
                self._activations(), before, self.weights, self.biases, state, strict=True
            )
        )

    def initial_state(self, inputs):
        # The forward pass itself, the rest state: nothing is fed back.
        state = []
        for activation, weight, bias in zip(self._activations(), self.weights, self.biases, strict=True):
            inputs = activation(jnp.dot(inputs, weight) + bias)
            state.append(inputs)
        return tuple(state)

    def output(self, state):
        return state[-1]

    def _activations(self):
        return (self.activation,) * (len(self.weights) - 1) + (Linear(),)
