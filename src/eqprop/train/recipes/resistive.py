"""Deep resistive networks that classify."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from eqprop.cost import SquaredError
from eqprop.substrates.circuit.drn import DeepResistiveNetwork
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.settings import EstimatorSettings

__all__ = ["ResistiveRecipe"]


class ResistiveRecipe(Recipe):
    """A deep resistive network from the data's inputs through hidden layers to one output node per class."""

    kind: Literal["deep_resistive"]
    hidden: list[PositiveInt] = [100]
    """Nodes of the hidden layers."""
    input_gain: PositiveFloat = 100.0
    """Volts per unit of input."""
    estimator: EstimatorSettings = EstimatorSettings(beta=1.0)

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        sizes = [data.train_inputs[0].size, *self.hidden, data.classes]
        system = DeepResistiveNetwork(sizes, key=key, input_gain=self.input_gain)
        return classification(config, system, SquaredError(), self.estimator.build(), one_hot=True)
