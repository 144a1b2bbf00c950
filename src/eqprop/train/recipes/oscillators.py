"""Layered oscillators that classify by the phases of their outputs."""

import math
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree
from pydantic import Field, PositiveFloat, PositiveInt

from eqprop.cost import PhaseError
from eqprop.settle.descent import BlockDescent
from eqprop.substrates.oscillators import LayeredOscillators
from eqprop.train.experiment import Experiment, classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.settings import BlockDescentSettings, EstimatorSettings

__all__ = ["OscillatorRecipe"]

REPORTED = 6
"""Test examples whose other rest states a report looks for."""


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

    def report_sections(self, run):
        """Other rest states of a few held-out examples."""
        from eqprop.train.report.branches import other_rest_states  # late: reports draw

        experiment = run.experiment()
        assert experiment.test is not None
        inputs, targets = (part[:REPORTED] for part in experiment.test)
        # Closely enough to tell rest states apart; the block minimisers go to minima only.
        solver = BlockDescent(1e-7, 1e-7, 10_000, relaxation=1.0)
        return [other_rest_states(experiment, solver, inputs, targets, answer, period=2 * math.pi)]


def wrong_phase(output: PyTree, targets: PyTree) -> Bool[Array, ""]:
    """Whether the output phase that is turned furthest is not the wanted one."""
    return answer(output) != jnp.argmax(targets)


def answer(output: PyTree) -> Int[Array, ""]:
    """The output whose phase is turned furthest."""
    return jnp.argmax(jnp.sin(output))
