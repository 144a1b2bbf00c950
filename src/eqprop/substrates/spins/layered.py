r"""Boltzmann machines in layers of binary and categorical units; with two layers, restricted Boltzmann machines.

$$E = -x^\top W_0 s_1 - \sum_k s_k^\top W_k s_{k+1} - \sum_k b_k^\top s_k$$

Binary units are $\pm 1$; a categorical unit of $q$ values is a one-hot row. Even and odd layers do not interact within
themselves and are redrawn together.

Source:
    G. E. Hinton, Training products of experts by minimizing contrastive divergence, 2002. R. Salakhutdinov and
    G. Hinton, Deep Boltzmann machines, 2009.
"""

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqprop.substrates.spins.field import categorical_field, nudge_field
from eqprop.substrates.spins.ising import all_spins
from eqprop.substrates.spins.redraw import draw_spins
from eqprop.system import Conditionals, System

__all__ = ["Categorical", "LayeredBoltzmann", "Spins"]

_MOST = 2**20


class Spins(eqx.Module):
    """A layer of `count` binary units, each ±1."""

    count: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the layer's part of the state."""
        return (self.count,)

    @property
    def undecided(self) -> float:
        """The mean of a unit without any field."""
        return 0.0

    def draw(
        self, uniform: Float[Array, " unit"], field: Float[Array, " unit"], temperature: Float[Array, ""]
    ) -> Float[Array, " unit"]:
        """The units in a field, from uniform numbers."""
        return draw_spins(uniform, field, temperature)

    def field(self, nudge, dtype):
        """What a nudge energy of the layer means to its units."""
        return nudge_field(nudge, self.count, dtype)

    def all(self) -> np.ndarray:
        """All configurations."""
        return all_spins(self.count)


class Categorical(eqx.Module):
    """A layer of `count` units of `levels` values each, rows of a one-hot matrix."""

    count: int = eqx.field(static=True)
    levels: int = eqx.field(static=True)

    def __check_init__(self):
        if self.levels < 2:
            raise ValueError(f"`Categorical.levels` must be at least 2; got {self.levels}.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the layer's part of the state."""
        return (self.count, self.levels)

    @property
    def undecided(self) -> float:
        """The mean of each entry without any field."""
        return 1 / self.levels

    def draw(
        self, uniform: Float[Array, "unit level"], field: Float[Array, "unit level"], temperature: Float[Array, ""]
    ) -> Float[Array, "unit level"]:
        """The units in a field, by Gumbel noise from uniform numbers: shared numbers share noise."""
        tiny = float(np.finfo(field.dtype).tiny)  # keeps the logarithm of a zero finite
        noise = -jnp.log(-jnp.log(jnp.maximum(uniform, tiny)))
        return jax.nn.one_hot(jnp.argmax(field / temperature + noise, axis=-1), self.levels, dtype=field.dtype)

    def field(self, nudge, dtype):
        """What a nudge energy of the layer means to each value of its units."""
        return categorical_field(nudge, self.count, self.levels, dtype)

    def all(self) -> np.ndarray:
        """All configurations."""
        if self.levels**self.count > _MOST:
            raise ValueError(f"{self.count} units of {self.levels} values are too many to list; use `Gibbs`.")
        digits = np.arange(self.levels**self.count)[:, None] // self.levels ** np.arange(self.count) % self.levels
        return np.eye(self.levels)[digits]


class LayeredBoltzmann(System):
    """A Boltzmann machine in layers: inputs, then layers of units, neighbours coupled.

    Args:
        inputs: Number of clamped inputs, of any real value; 0 for a model without inputs.
        layers: The layers of units: `Spins(n)` or `Categorical(n, levels)`.
        key: Random key for the weights, normal with deviation gain/sqrt(fan-in).
        outputs: Which layer is read and nudged, the last by default. A categorical one is read as its rows in line.
        gain: Scale of the initial weights.

    Raises:
        ValueError: if there is nothing to couple, or `outputs` names no layer.
    """

    weights: tuple[Float[Array, "pre post"], ...]
    biases: tuple[Float[Array, " unit"], ...]
    layers: tuple[Spins | Categorical, ...]
    inputs: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)

    holomorphic: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def __init__(
        self,
        inputs: int,
        layers: Sequence[Spins | Categorical],
        *,
        key: PRNGKeyArray,
        outputs: int = -1,
        gain: float = 0.5,
    ):
        if len(layers) + (inputs > 0) < 2 or min(layer.count for layer in layers) < 1:
            raise ValueError(
                f"`layers` must hold at least two layers of units, inputs counted, none empty; got {list(layers)}."
            )
        if not -len(layers) <= outputs < len(layers):
            raise ValueError(f"`outputs` must name one of the {len(layers)} layers; got {outputs}.")
        self.layers = tuple(layers)
        self.inputs = inputs
        self.outputs = outputs % len(layers)
        sizes = [inputs] * (inputs > 0) + [math.prod(layer.shape) for layer in layers]
        keys = jax.random.split(key, len(sizes) - 1)
        self.weights = tuple(
            jax.random.normal(k, pair) * (gain / math.sqrt(pair[0]))
            for k, pair in zip(keys, itertools.pairwise(sizes), strict=True)
        )
        self.biases = tuple(jnp.zeros(math.prod(layer.shape)) for layer in layers)

    def energy(self, state, inputs):
        dtype = state[0].dtype
        rows = [jnp.ravel(s) for s in state]
        total = sum(jnp.dot(b.astype(dtype), s) for b, s in zip(self.biases, rows, strict=True))
        first, between = self._split()
        if first is not None:
            total = total + jnp.dot(jnp.dot(self._clamped(inputs).astype(dtype), first.astype(dtype)), rows[0])
        for weight, low, high in zip(between, rows[:-1], rows[1:], strict=True):
            total = total + jnp.dot(jnp.dot(low, weight.astype(dtype)), high)
        return -total

    def initial_state(self, inputs):
        dtype = jnp.result_type(self._clamped(inputs).dtype, self.biases[0].dtype)
        return tuple(jnp.full(layer.shape, layer.undecided, dtype) for layer in self.layers)

    def output(self, state):
        return jnp.ravel(state[self.outputs])

    def blocks(self):
        parts = (tuple(k % 2 == side for k in range(len(self.layers))) for side in (0, 1))
        return tuple(part for part in parts if any(part))

    def configurations(self):
        listed = [layer.all() for layer in self.layers]
        total = math.prod(len(c) for c in listed)
        if total > _MOST:
            raise ValueError(f"{total} configurations are too many to list (at most {_MOST}); use `Gibbs`.")
        places = np.unravel_index(np.arange(total), [len(c) for c in listed])
        return tuple(jnp.asarray(c[p], self.biases[0].dtype) for c, p in zip(listed, places, strict=True))

    def conditionals(self, inputs, nudge):
        start = self.initial_state(inputs)
        dtype = start[0].dtype
        fixed = [b.astype(dtype) for b in self.biases]
        first, between = self._split()
        if first is not None:
            fixed[0] = fixed[0] + jnp.dot(self._clamped(inputs).astype(dtype), first.astype(dtype))
        if nudge is not None:
            place = self.outputs
            extra = self.layers[place].field(lambda o: nudge((*start[:place], o, *start[place + 1 :])), dtype)
            fixed[place] = fixed[place] + jnp.ravel(extra)
        weights = [w.astype(dtype) for w in between]

        sizes = [math.prod(layer.shape) for layer in self.layers]
        ends = np.cumsum(sizes)

        def noise(key):
            return jax.random.uniform(key, (int(ends[-1]),), dtype)

        def draw(block, noise, temperature, state):
            state = list(state)
            for k in range(block, len(self.layers), 2):
                field = fixed[k]
                if k > 0:
                    field = field + jnp.dot(jnp.ravel(state[k - 1]), weights[k - 1])
                if k + 1 < len(state):
                    field = field + jnp.dot(weights[k], jnp.ravel(state[k + 1]))
                layer = self.layers[k]
                uniform = noise[ends[k] - sizes[k] : ends[k]].reshape(layer.shape)
                state[k] = layer.draw(uniform, field.reshape(layer.shape), temperature)
            return tuple(state)

        return Conditionals(min(2, len(self.layers)), noise, draw)

    def _split(self):
        """Weights from the inputs, and weights between layers."""
        return (self.weights[0], self.weights[1:]) if self.inputs > 0 else (None, self.weights)

    def _clamped(self, inputs):
        flat = jnp.ravel(inputs)
        if flat.shape[0] != self.inputs:
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} hold {flat.shape[0]} numbers; this machine has {self.inputs} "
                "inputs."
            )
        return flat if jnp.issubdtype(flat.dtype, jnp.inexact) else flat.astype(self.biases[0].dtype)
