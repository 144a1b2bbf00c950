"""Deep resistive networks that classify."""

from typing import Literal

import equinox as eqx
from pydantic import PositiveFloat, PositiveInt

from eqprop.cost import SquaredError
from eqprop.substrates.circuit.drn import DeepResistiveNetwork
from eqprop.train.devices import DeviceSettings, warn_of_lost_nudge
from eqprop.train.experiment import classification, load_data
from eqprop.train.recipes.base import Recipe
from eqprop.train.settings import EstimatorSettings

__all__ = ["ResistiveRecipe"]

REPORTED = 16
"""Test examples whose power a report tells."""


class ResistiveRecipe(Recipe):
    """A deep resistive network from the data's inputs through hidden layers to one output node per class."""

    kind: Literal["deep_resistive"]
    hidden: list[PositiveInt] = [100]
    """Nodes of the hidden layers."""
    input_gain: PositiveFloat = 100.0
    """Volts per unit of input."""
    estimator: EstimatorSettings = EstimatorSettings(beta=1.0)
    devices: DeviceSettings = DeviceSettings()
    """Imperfections of reading and writing, in the training loop; ideal by default."""

    def build(self, config, key):
        """The experiment."""
        data = load_data(config)
        sizes = [data.train_inputs[0].size, *self.hidden, data.classes]
        system = DeepResistiveNetwork(sizes, key=key, input_gain=self.input_gain)
        propagate = self.estimator.build()
        propagate = eqx.tree_at(lambda p: p.solver, propagate, self.devices.solver(propagate.solver))
        experiment = classification(config, system, SquaredError(), propagate, one_hot=True)
        if self.devices.read_noise > 0:
            first = (part[0] for part in experiment.train)
            noise = self.devices.read_noise
            warn_of_lost_nudge(system, self.estimator.solver.build(), self.estimator.beta, *first, read_noise=noise)
        return eqx.tree_at(
            lambda e: e.optimiser,
            experiment,
            self.devices.optimiser(experiment.optimiser),
            is_leaf=lambda x: x is experiment.optimiser,
        )

    def trained_circuit(self, run):
        """The network as a netlist, with the run's conductances."""
        network = run.experiment().system
        assert isinstance(network, DeepResistiveNetwork)
        return network.circuit().compile()

    def report_sections(self, run):
        """Crossbars, node voltages and power, on a few held-out examples."""
        from eqprop.train.report.circuits import layered_sections  # late: reports draw

        experiment = run.experiment()
        assert experiment.test is not None
        inputs, targets = (part[:REPORTED] for part in experiment.test)
        solver = self.estimator.solver.build()
        return layered_sections(experiment.system, solver, inputs, targets, self.estimator.beta)
