"""Convolutional Hopfield networks that classify images."""

from typing import Literal

import jax
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from eqprop.cost import CrossEntropy, SquaredError
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.substrates.activation import HalfHardSigmoid, HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.conv_hopfield import Conv, ConvHopfield
from eqprop.substrates.convolution import MaxPooling, MeanPooling
from eqprop.train.augment import Augmented
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.settings import EstimatorSettings, Settings, ThroughTimeSettings

__all__ = ["ConvRecipe"]

_ACTIVATIONS = {
    "hard_sigmoid": HardSigmoid,
    "half_hard_sigmoid": HalfHardSigmoid,
    "logistic": Logistic,
    "tanh": Tanh,
}


CHUNK = 2
"""Images that settle together on a processor, where `chunk` is not set: more do not fit its cache, and wait for one
another."""


class ConvSettings(Settings):
    """One convolutional layer."""

    features: PositiveInt
    """Feature maps."""
    size: PositiveInt | tuple[PositiveInt, PositiveInt] = 3
    """Side of the kernel, or its height and width."""
    stride: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    padding: NonNegativeInt | tuple[NonNegativeInt, NonNegativeInt] = 0
    pooling: Literal["max", "mean", "none"] = "max"
    window: PositiveInt = 2
    """Side of the pooling window, and its step."""

    def build(self) -> Conv:
        """The plan of the layer."""
        rules = {"max": MaxPooling, "mean": MeanPooling}
        pooling = rules[self.pooling](self.window) if self.pooling in rules else None
        return Conv(self.features, self.size, stride=self.stride, padding=self.padding, pooling=pooling)


class SkipSettings(ConvSettings):
    """A further connection between two convolutional layers; 0 is the image."""

    source: NonNegativeInt
    target: PositiveInt


class ConvRecipe(Recipe):
    """A network from images through convolutional and dense layers to one output per class."""

    kind: Literal["conv_hopfield"] = "conv_hopfield"
    layers: list[ConvSettings]
    skips: list[SkipSettings] = []
    dense: list[PositiveInt] = []
    """Units of dense hidden layers."""
    activation: Literal["hard_sigmoid", "half_hard_sigmoid", "logistic", "tanh"] = "hard_sigmoid"
    output: Literal["softmax", "linear"] = "softmax"
    """Softmax readout (cross-entropy), or a layer of linear units (squared error)."""
    gain: PositiveFloat = 0.7
    """Initial weights lie within ±gain/sqrt(fan-in)."""
    mean: list[float] = []
    """Of each channel, taken off the images."""
    deviation: list[PositiveFloat] = []
    """Of each channel, the images are divided by it."""
    shift: NonNegativeInt = 0
    """Training images are shifted at random by up to so many pixels."""
    mirror: bool = False
    """Whether training images are mirrored at random."""
    estimator: EstimatorSettings = EstimatorSettings(beta=0.2)
    through_time: ThroughTimeSettings | None = None
    """Train by backpropagation through time instead; the solver of `estimator` makes the steps."""
    devices: PositiveInt | None = None
    """How many processors or accelerators share a batch; all by default."""

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        softmax = self.output == "softmax"
        system = ConvHopfield(
            _image(data.shape),
            [layer.build() for layer in self.layers],
            data.classes,
            key=key,
            dense=self.dense,
            activation=_ACTIVATIONS[self.activation](),
            softmax=softmax,
            output=None if softmax else Linear(),
            skips=[(skip.source, skip.target, skip.build()) for skip in self.skips],
            gain=self.gain,
            mean=self.mean,
            deviation=self.deviation,
        )
        cost = CrossEntropy() if softmax else SquaredError()
        propagate = self.rule() if self.through_time is None else self.through_time.build(self.estimator)
        if self.shift or self.mirror:
            propagate = Augmented(propagate, self.shift, self.mirror)
        devices = jax.device_count() if self.devices is None else self.devices
        return classification(config, system, cost, propagate, one_hot=not softmax, flatten=False, devices=devices)

    def rule(self) -> EquilibriumPropagation:
        """The estimator; on a processor, few images settle together."""
        estimator = self.estimator
        if estimator.chunk is None and jax.default_backend() == "cpu":
            estimator = estimator.model_copy(update={"chunk": CHUNK})
        return estimator.build()


def _image(shape):
    """Height, width and channels of a data set's examples."""
    if len(shape) not in (2, 3):
        raise ValueError(
            f"The data's examples have shape {tuple(shape)}; a convolutional network needs images, (height, width) or "
            "(height, width, channel)."
        )
    return (*shape, 1) if len(shape) == 2 else tuple(shape)
