r"""Convolutional Hopfield networks.

$$E(s) = \sum_i G(s_i) - \Phi, \qquad
\Phi = \sum_{(j,k)} s^{(k)} \bullet \mathcal P(w^{(jk)} \star s^{(j)}) + \sum_k b^{(k)} \bullet s^{(k)}$$

with convolutions $\star$, pooling $\mathcal P$, dense connections where a layer is flat, and the image
$s^{(0)} = x$ clamped. Units rest at $s = \sigma(\partial\Phi/\partial s)$: a layer is driven from below by its pooled
convolution and from above by the transposed convolution of what is un-pooled.

With mean pooling $\Phi$ is linear in every layer and $\sigma$ of the drive its exact minimiser. With max pooling it
is piecewise linear, and for states that are not negative convex, in the lower layer: $\sigma$ of the drive
minimises $E$ with the places of the maxima held, an upper bound of $E$ that touches it at the old state, so the
energy still never rises, and a state that maps to itself is a rest state.

Source:
    M. Ernoult et al., Updates of equilibrium prop match gradients of backprop through time in an RNN with static
    input, 2019. A. Laborieux et al., Scaling equilibrium propagation to deep ConvNets, 2021.
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from eqprop.substrates.activation import Activation, HardSigmoid, Linear
from eqprop.substrates.convolution import Pooling, convolve, extent, pair
from eqprop.substrates.hopfield import Hopfield, Readout

__all__ = ["Conv", "ConvHopfield", "Convolutional", "Dense"]


class Conv(eqx.Module):
    """The plan of a convolutional layer: what it reads with, and how it pools.

    Args:
        features: Feature maps of the layer.
        size: Side of the kernel, or its height and width.
        stride: Step of the kernel, or its steps along height and width.
        padding: Zeros around what is read, or those on height and on width.
        pooling: `MaxPooling(2)`, say; None for no pooling.
    """

    features: int = eqx.field(static=True)
    size: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)
    padding: tuple[int, int] = eqx.field(static=True)
    pooling: Pooling | None

    def __init__(
        self,
        features: int,
        size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        pooling: Pooling | None = None,
    ):
        if not isinstance(features, int) or features < 1:
            raise ValueError(f"`Conv.features` must be a positive whole number; got {features}.")
        self.features = features
        self.size = pair("Conv.size", size)
        self.stride = pair("Conv.stride", stride)
        self.padding = pair("Conv.padding", padding, least=0)
        self.pooling = pooling

    def shape(self, image: Sequence[int]) -> tuple[int, int, int]:
        """The layer's (height, width, feature) over an image."""
        sides = [extent(*numbers) for numbers in zip(image[:2], self.size, self.stride, self.padding, strict=True)]
        if self.pooling is not None:
            sides = [extent(*numbers, 0) for numbers in zip(sides, self.pooling.size, self.pooling.stride, strict=True)]
        return sides[0], sides[1], self.features


class Connection(eqx.Module):
    """A linear or piecewise linear map from one layer to the drive of another."""

    @abc.abstractmethod
    def __call__(self, below: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The drive it gives to the layer above."""


class Convolutional(Connection):
    """A convolution, then pooling."""

    kernel: Float[Array, "row column channel feature"]
    plan: Conv

    def __init__(self, plan: Conv, channels: int, *, key: PRNGKeyArray, gain: float):
        self.plan = plan
        limit = gain / math.sqrt(plan.size[0] * plan.size[1] * channels)
        shape = (*plan.size, channels, plan.features)
        self.kernel = jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    def __call__(self, below):
        maps = convolve(below, self.kernel, stride=self.plan.stride, padding=self.plan.padding)
        return maps if self.plan.pooling is None else self.plan.pooling(maps)


class Dense(Connection):
    """A matrix, from a layer made flat."""

    weight: Float[Array, "pre post"]

    def __init__(self, pre: int, post: int, *, key: PRNGKeyArray, gain: float):
        limit = gain / math.sqrt(pre)
        self.weight = jax.random.uniform(key, (pre, post), minval=-limit, maxval=limit)

    def __call__(self, below):
        return jnp.dot(jnp.ravel(below), self.weight)


class ConvHopfield(Hopfield):
    """A convolutional Hopfield network: convolutional layers, dense layers, a readout or a layer of outputs.

    Settling starts at the feed-forward pass. Layers are blocks, from the top down: so a sweep needs each
    convolution and its transpose once.

    Args:
        image: Height, width and channels of an image.
        layers: Plans of the convolutional layers, from the image upwards.
        labels: Outputs.
        key: Random key for the weights, uniform within ±gain/sqrt(fan-in).
        dense: Units of dense hidden layers, after the convolutional ones.
        activation: Of all layers but an output layer: hard sigmoid by default.
        softmax: Whether the outputs are a linear readout in `output` (to be trained with `CrossEntropy`), instead
            of a layer of units.
        output: Of the output layer, where there is one; linear by default.
        skips: Further connections, `(from, to, plan)` by layer number (0 is the image); the plan must give
            the shape of the layer it reaches.
        gain: Scale of the initial weights.
        mean: Of each channel of the images, taken off before anything else; zeros by default.
        deviation: Of each channel, divided by; ones by default.

    Raises:
        ValueError: for kernels or windows larger than what they read, skips that do not fit, and `mean` or
            `deviation` of another length than the channels.
    """

    connections: tuple[Connection, ...]
    biases: tuple[Float[Array, " feature"], ...]
    readout: Readout | None
    units: tuple[Activation, ...]
    ends: tuple[tuple[int, int], ...] = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    mean: tuple[float, ...] = eqx.field(static=True)
    deviation: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        image: Sequence[int],
        layers: Sequence[Conv],
        labels: int,
        *,
        key: PRNGKeyArray,
        dense: Sequence[int] = (),
        activation: Activation | None = None,
        softmax: bool = True,
        output: Activation | None = None,
        skips: Sequence[tuple[int, int, Conv]] = (),
        gain: float = 0.7,
        mean: Sequence[float] = (),
        deviation: Sequence[float] = (),
    ):
        if len(image) != 3 or min(image) < 1:
            raise ValueError(f"`image` must be (height, width, channels), all positive; got {tuple(image)}.")
        flat = [*dense] if softmax else [*dense, labels]
        if not (layers or flat) or labels < 1 or any(n < 1 for n in flat):
            raise ValueError("The network needs `layers` or `dense` layers, and positive `dense` sizes and `labels`.")
        self.shapes = _shapes(tuple(image), layers, flat)
        self.mean, self.deviation = (tuple(float(v) for v in values) for values in (mean, deviation))
        if any(len(v) not in (0, image[2]) for v in (mean, deviation)) or any(d <= 0 for d in deviation):
            raise ValueError(
                f"`mean` and `deviation` must hold one number for each of the {image[2]} channels, deviations "
                f"positive; got {tuple(mean)} and {tuple(deviation)}."
            )
        hidden = HardSigmoid() if activation is None else activation
        last = hidden if softmax else (Linear() if output is None else output)
        count = len(layers) + len(flat)
        self.units = (hidden,) * (count - 1) + (last,)
        self.ends = (*((n, n + 1) for n in range(count)), *((i, j) for i, j, _ in skips))
        keys = jax.random.split(key, len(self.ends) + 1)
        chain: list[Connection] = [
            Convolutional(plan, shape[-1], key=k, gain=gain)
            for plan, shape, k in zip(layers, self.shapes, keys, strict=False)
        ]
        for n in range(len(layers), count):
            pre, post = math.prod(self.shapes[n]), self.shapes[n + 1][0]
            chain.append(Dense(pre, post, key=keys[n], gain=gain))
        for (i, j, plan), k in zip(skips, keys[count:], strict=False):
            _check_skip(self.shapes, i, j, plan)
            chain.append(Convolutional(plan, self.shapes[i][-1], key=k, gain=gain))
        self.connections = tuple(chain)
        self.biases = tuple(jnp.zeros(shape[-1]) for shape in self.shapes[1:])
        self.readout = Readout(math.prod(self.shapes[-1]), labels, key=keys[-1], gain=gain) if softmax else None

    def coupling(self, state, inputs):
        layers = (self._image(inputs), *state)
        # Summed over places first, so that a bias is never spread over a batch of maps.
        total = sum(jnp.dot(b, _over_places(s)) for b, s in zip(self.biases, state, strict=True))
        for (i, j), connection in zip(self.ends, self.connections, strict=True):
            total = total + jnp.sum(connection(layers[i]) * layers[j])
        return total

    def activations(self):
        return self.units

    def initial_state(self, inputs):
        layers = [self._image(inputs)]
        for n, (unit, bias) in enumerate(zip(self.units, self.biases, strict=True), start=1):
            below = [c(layers[i]) for (i, j), c in zip(self.ends, self.connections, strict=True) if j == n]
            drive = sum(below[1:], below[0])
            layers.append(unit(drive + jnp.broadcast_to(bias, drive.shape)))
        return tuple(layers[1:])

    def output(self, state):
        if self.readout is None:
            return state[-1]
        return jnp.dot(jnp.ravel(state[-1]), self.readout.weight) + self.readout.bias

    def blocks(self):
        count = len(self.units)
        return tuple(tuple(n == top for n in range(count)) for top in reversed(range(count)))

    def _image(self, inputs):
        shape = self.shapes[0]
        accepted = [shape, (math.prod(shape),)] + ([shape[:2]] if shape[2] == 1 else [])
        if jnp.shape(inputs) not in accepted:
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} are no image of this network, which reads "
                f"(height, width, channel) = {shape}; reshape the images, or build the network for them."
            )
        dtype = jnp.result_type(inputs, self.biases[0])
        pixels = jnp.reshape(inputs, shape).astype(dtype)
        if self.mean:
            pixels = pixels - jnp.broadcast_to(jnp.asarray(self.mean, dtype), shape)
        if self.deviation:
            pixels = pixels / jnp.broadcast_to(jnp.asarray(self.deviation, dtype), shape)
        return pixels


def _shapes(image, layers, flat):
    """Shapes of the image and of every layer."""
    shapes = [image]
    for n, plan in enumerate(layers):
        try:
            shapes.append(plan.shape(shapes[-1]))
        except ValueError as error:
            raise ValueError(f"`layers[{n}]` does not fit the {shapes[-1]} it reads. {error}") from None
    return (*shapes, *((n,) for n in flat))


def _check_skip(shapes, i, j, plan):
    count = len(shapes) - 1
    if not (0 <= i < j - 1 and j <= count and len(shapes[i]) == len(shapes[j]) == 3):
        raise ValueError(
            f"`skips` holds ({i}, {j}), which joins no two convolutional layers at least two apart, of {count} layers."
        )
    if plan.shape(shapes[i]) != shapes[j]:
        raise ValueError(
            f"The skip ({i}, {j}) gives {plan.shape(shapes[i])}, but layer {j} is {shapes[j]}; "
            "change its features, stride, padding or pooling."
        )


def _over_places(layer):
    return layer if layer.ndim == 1 else jnp.sum(layer, (0, 1))
