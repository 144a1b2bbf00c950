"""Feed-forward networks that classify, trained by the one nudged phase of their doubled system."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from eqprop.cost import CrossEntropy, SquaredError
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.one_phase import OnePhase
from eqprop.settle.doubled import DoubledFlow
from eqprop.substrates.activation import HardSigmoid, Logistic, Tanh
from eqprop.substrates.field import Doubled, Dyads
from eqprop.substrates.field_networks import FeedForward
from eqprop.system import CostNudged
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe

__all__ = ["DyadicRecipe"]

_ACTIVATIONS = {"hard_sigmoid": HardSigmoid, "logistic": Logistic, "tanh": Tanh}


class DyadicRecipe(Recipe):
    """A multilayer perceptron, strictly one-way, whose doubled system is a scalar's."""

    kind: Literal["dyadic"] = "dyadic"
    hidden: list[PositiveInt] = Field(default_factory=lambda: [256])
    """Units of the hidden layers."""
    activation: Literal["hard_sigmoid", "logistic", "tanh"] = "tanh"
    gain: PositiveFloat = 1.0
    """Initial weights lie within ±gain/sqrt(fan-in)."""
    beta: PositiveFloat = 0.1
    """Nudging strength."""
    nudge: Literal["dyads", "mean"] = "dyads"
    """Each copy nudged by half the cost (order 2 in beta), or the cost at their mean (exact at every beta)."""
    rule: Literal["one_phase", "backprop"] = "one_phase"
    """How the gradient is found; `backprop`, by reverse-mode differentiation, is there for comparison."""
    cost: Literal["squared_error", "cross_entropy"] = "cross_entropy"
    rtol: PositiveFloat = 1e-4
    """Accuracy of settling, relative for mean and difference alike."""
    max_steps: PositiveInt = 200

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        sizes = [data.train_inputs[0].size, *self.hidden, data.classes]
        network = FeedForward(sizes, key=key, activation=_ACTIVATIONS[self.activation](), gain=self.gain)
        solver = DoubledFlow(rtol=self.rtol, max_steps=self.max_steps)
        propagate = OnePhase(self.beta, solver, Dyads if self.nudge == "dyads" else CostNudged)
        if self.rule == "backprop":
            # The initial state is the forward pass, at which one step changes nothing.
            propagate = BackpropagationThroughTime(solver, 1)
        squared = self.cost == "squared_error"
        cost = SquaredError() if squared else CrossEntropy()
        return classification(config, Doubled(network), cost, propagate, one_hot=squared)
