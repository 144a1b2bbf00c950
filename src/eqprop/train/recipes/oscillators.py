"""Layered oscillators that classify by the phases of their outputs."""

from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree
from pydantic import Field, PositiveFloat, PositiveInt

from eqprop.cost import PhaseError
from eqprop.substrates.oscillators import LayeredOscillators
from eqprop.train.experiment import Experiment, classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.settings import BlockDescentSettings, EstimatorSettings

__all__ = ["OscillatorRecipe"]


class OscillatorRecipe(Recipe):
    """XY oscillators in layers; outputs turn one way for the example's class and the other way for the rest."""

    kind: Literal["oscillators"] = "oscillators"
    hidden: list[PositiveInt] = Field(default_factory=lambda: [100])
    """Oscillators of the hidden layers."""
    pin: PositiveFloat = 1.0
    """Strength of the outputs' field towards 0."""
    answer: Annotated[float, Field(gt=0, lt=1.57)] = 1.0
    """Targets are plus and minus this angle. At pi/2 an answer that is wholly wrong would feel no force. [rad]"""
    gain: PositiveFloat = 0.5
    """Initial weights are normal with gain/sqrt(fan-in)."""
    estimator: EstimatorSettings = EstimatorSettings(beta=0.3, solver=BlockDescentSettings(rtol=1e-3, atol=1e-4))

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        sizes = [data.train_inputs[0].size, *self.hidden, data.classes]
        system = LayeredOscillators(sizes, key=key, pin=self.pin, gain=self.gain)
        plain = classification(config, system, PhaseError(), self.estimator.build(), one_hot=True)
        assert plain.test is not None
        train, test = ((inputs, self.answer * (2 * labels - 1)) for inputs, labels in (plain.train, plain.test))
        return Experiment(system, plain.cost, plain.propagate, plain.optimiser, train, test, wrong_phase)


def wrong_phase(output: PyTree, targets: PyTree) -> Bool[Array, ""]:
    """Whether the output phase that is turned furthest is not the wanted one."""
    return jnp.argmax(jnp.sin(output)) != jnp.argmax(targets)
