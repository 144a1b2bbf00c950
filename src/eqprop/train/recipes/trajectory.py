"""Recurrent Hamiltonian networks that classify sequences."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from eqprop.cost import CrossEntropy
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.stencil import one_sided, symmetric
from eqprop.motion import Pooled
from eqprop.settle.run import Run
from eqprop.substrates.trajectory import RecurrentHamiltonian, recurrent_stack
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe

__all__ = ["TrajectoryRecipe"]


class TrajectoryRecipe(Recipe):
    """Coupled oscillators, driven by the sequence; a linear readout of their positions, pooled over time.

    Data sets whose examples are [sample, channel] are taken as they are; pictures are read row by row.
    """

    kind: Literal["trajectory"]
    units: list[PositiveInt] = [32]
    """Oscillators of each block; more than one block makes a stack."""
    pools: NonNegativeInt = 10
    """Stretches of the run over which positions are averaged, besides the last position."""
    step: PositiveFloat = 0.5
    """Time step."""
    substeps: PositiveInt = 1
    """Leapfrog steps for each sample."""
    friction: NonNegativeFloat = 0.0
    """Rate at which the oscillators' momenta decay; an echo needs beta smaller by exp(rate times duration)."""
    lowest: PositiveFloat = 0.05
    """Lowest frequency of the oscillators, at the start."""
    highest: PositiveFloat = 1.0
    """Highest frequency."""
    coupling: PositiveFloat = 0.5
    """Scale of the recurrent weights, at the start."""
    gain: PositiveFloat = 1.0
    """Scale of the input weights, at the start."""
    estimator: Literal["echo", "one_sided_echo", "backpropagation"] = "echo"
    """Echo propagation, or the reference that stores the run."""
    beta: PositiveFloat = 0.03
    """Nudging strength, for a force of unit norm. About 0.03 in float32, 1e-4 in float64."""

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        channels = data.shape[1] if len(data.shape) > 1 else 1
        window = Pooled(self.pools, last=True)
        shared = {
            "key": key,
            "window": window,
            "step": self.step,
            "frequencies": (self.lowest, self.highest),
            "substeps": self.substeps,
            "friction": self.friction,
            "coupling": self.coupling,
            "gain": self.gain,
        }
        if len(self.units) == 1:
            system = RecurrentHamiltonian(channels, self.units[0], data.classes, **shared)
        else:
            system = recurrent_stack(channels, tuple(self.units), data.classes, **shared)
        return classification(config, system, CrossEntropy(), self._estimator(), one_hot=False, flatten=False)

    def report_sections(self, run):
        """The gradient against backpropagation through time; an example in motion, free and nudged."""
        # Reports read configurations, and configurations read recipes: this import must come late.
        from eqprop.train.report.motion import motion, proof_by_time
        from eqprop.train.report.section import LeftOut
        from eqprop.train.report.study import Study

        study, made = Study(run), []
        for section in (proof_by_time, motion):
            try:
                made.append(section(study))
            except LeftOut:
                continue
        return made

    def _estimator(self):
        if self.estimator == "backpropagation":
            return BackpropagationThroughTime(Run())
        rule = symmetric if self.estimator == "echo" else one_sided
        return EchoPropagation(rule(self.beta), normalised=True)
