"""Boltzmann machines in layers that classify at a finite temperature, by sampled equilibrium propagation."""

from typing import Literal

import jax.numpy as jnp
from pydantic import PositiveFloat, PositiveInt

from eqprop.cost import ErrorRate
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.substrates.spins import Categorical, LayeredBoltzmann, Spins
from eqprop.system import CostNudged
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.sampling import GibbsSettings

__all__ = ["BoltzmannRecipe"]


class BoltzmannRecipe(Recipe):
    """Inputs, layers of binary units, and one categorical unit with a value for each class.

    The cost is the probability of a wrong class, a field on the categorical unit.
    """

    kind: Literal["boltzmann"] = "boltzmann"
    hidden: list[PositiveInt] = [64]
    """Binary units of the hidden layers."""
    gain: PositiveFloat = 0.5
    """Initial weights are normal with deviation gain/sqrt(fan-in)."""
    beta: float = 2.0
    """Nudging strength, symmetric; of the order of the temperature, because the noise of the contrast falls with it."""
    sampler: GibbsSettings = GibbsSettings(burn_in=5, samples=5)

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        layers = [*(Spins(count) for count in self.hidden), Categorical(1, data.classes)]
        system = LayeredBoltzmann(data.train_inputs[0].size, layers, key=key, gain=self.gain)
        beta = jnp.asarray(self.beta, jnp.zeros(()).dtype)
        propagate = EquilibriumPropagation(symmetric(beta), self.sampler.build(), CostNudged)
        return classification(config, system, ErrorRate(), propagate, one_hot=False)
