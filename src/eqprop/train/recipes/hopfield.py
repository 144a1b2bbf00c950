"""Layered Hopfield networks that classify."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from eqprop.cost import CrossEntropy, SquaredError
from eqprop.substrates.activation import HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.hopfield import LayeredHopfield
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.settings import EstimatorSettings, ThroughTimeSettings

__all__ = ["HopfieldRecipe"]

_ACTIVATIONS = {"hard_sigmoid": HardSigmoid, "logistic": Logistic, "tanh": Tanh, "linear": Linear}


class HopfieldRecipe(Recipe):
    """A network from the data's inputs through hidden layers to one output per class."""

    kind: Literal["hopfield"] = "hopfield"
    hidden: list[PositiveInt] = Field(default_factory=lambda: [256])
    """Units of the hidden layers."""
    activation: Literal["hard_sigmoid", "logistic", "tanh"] = "hard_sigmoid"
    output: Literal["linear", "softmax", "hard_sigmoid", "logistic", "tanh"] = "linear"
    """Linear (squared error), softmax (cross-entropy), or units that can saturate (squared error)."""
    gain: PositiveFloat = 0.7
    """Initial weights lie within ±gain/sqrt(fan-in)."""
    skips: list[tuple[int, int]] = Field(default_factory=list)
    """Further connections between layers; 0 is the inputs."""
    estimator: EstimatorSettings = EstimatorSettings()
    through_time: ThroughTimeSettings | None = None
    """Train by backpropagation through time instead; the solver of `estimator` makes the steps."""

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        softmax = self.output == "softmax"
        system = LayeredHopfield(
            [data.train_inputs[0].size, *self.hidden, data.classes],
            key=key,
            activation=_ACTIVATIONS[self.activation](),
            output=None if softmax else _ACTIVATIONS[self.output](),
            softmax=softmax,
            skips=self.skips,
            gain=self.gain,
        )
        cost = CrossEntropy() if softmax else SquaredError()
        propagate = self.estimator.build() if self.through_time is None else self.through_time.build(self.estimator)
        return classification(config, system, cost, propagate, one_hot=not softmax)
