"""Small circuits that live in ngspice and classify, trained with terminal voltages only."""

from typing import TYPE_CHECKING, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from eqprop.bridges.bench import Bench, BenchSolver
from eqprop.bridges.ngspice import NgspiceBatchBench, NgspiceBench
from eqprop.bridges.simulated import SimulatedBench
from eqprop.bridges.terminals import Terminals
from eqprop.cost import SquaredError
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import one_sided, symmetric
from eqprop.settle.graph import GraphNewton
from eqprop.substrates.circuit.devices import SpiceDiode, thermal_voltage
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network
from eqprop.train.devices import warn_of_lost_nudge
from eqprop.train.experiment import Experiment, load_data, wrong_class
from eqprop.train.recipes.base import Recipe

if TYPE_CHECKING:
    from eqprop.train.config import Config

__all__ = ["NgspiceRecipe"]


class Standardise(eqx.Module):
    """Inputs brought to mean 0 and spread 1."""

    mean: Float[Array, " input"]
    spread: Float[Array, " input"]

    def __call__(self, inputs: Float[Array, "example input"]) -> Float[Array, "example input"]:
        return (inputs - self.mean[None]) / self.spread[None]


class NgspiceRecipe(Recipe):
    """One hidden layer of diodes between two crossbars of trained conductances; a simulator settles it.

    It classifies the configured data, every input brought to mean 0 and spread 1 over the training examples; without
    `[data]`, the four patterns of exclusive or.
    """

    kind: Literal["ngspice"] = "ngspice"
    simulator: Literal["library", "batch", "own"] = "library"
    """ngspice's shared library, a process of ngspice for each operating point, or this library's own solver."""
    hidden: PositiveInt = 8
    """Nodes with a diode, half of them to each side of ground."""
    input_gain: PositiveFloat = 1.0
    """Volts for an input of 1. [V]"""
    high: PositiveFloat = 0.3
    """Voltage wanted of the output of the right class; the others are wanted at 0 V. [V]"""
    conductance: tuple[PositiveFloat, PositiveFloat] = (1e-5, 1e-3)
    """Range from which initial conductances are drawn. [S]"""
    saturation_current: PositiveFloat = 1e-6
    """Of the diodes. [A]"""
    beta: PositiveFloat = 1e-6
    """Nudging strength. [S]"""
    stencil: Literal["symmetric", "one_sided"] = "symmetric"
    read_noise: NonNegativeFloat = 0.0
    """Standard deviation of each reading, for `simulator = "own"`. [V]"""

    def build(self, config, key):
        """The experiment; with `simulator = "library"` its first step takes ngspice in this process."""
        train, test, prepare = self._examples(config)
        network = self.network(train[0].shape[1], train[1].shape[1], key)
        bench = self._bench(network)
        if self.read_noise > 0:
            first = (part[0] for part in train)
            scale = thermal_voltage()
            warn_of_lost_nudge(
                network, GraphNewton(), self.beta, *first, read_noise=self.read_noise, voltage_scale=scale
            )
        system = Terminals(network)
        stencil = symmetric(self.beta) if self.stencil == "symmetric" else one_sided(self.beta)
        return Experiment(
            system=system,
            cost=SquaredError(),
            propagate=EquilibriumPropagation(stencil, BenchSolver(bench)),
            optimiser=config.optimiser.build(system, max(len(train[0]) // config.batch_size, 1), config.epochs),
            train=train,
            test=test,
            wrong=wrong_class,
            prepare=prepare,
        )

    def trained_circuit(self, run):
        """The circuit, with the run's conductances."""
        inputs, targets = self._examples(run.config)[1]
        return run.trained(self.network(inputs.shape[1], targets.shape[1], jax.random.key(0)))

    def report_sections(self, run):
        """The circuit, its voltages and power, by the library's own solver: no simulator is started for a report."""
        from eqprop.train.report.circuits import network_sections  # late: reports draw

        inputs, targets = self._examples(run.config)[1]
        return network_sections(self.trained_circuit(run), inputs, targets, self.beta)

    def network(self, inputs: int, outputs: int, key: jax.Array) -> Network:
        """The circuit, with freshly drawn conductances."""
        one, two = jax.random.split(key)
        low, high = self.conductance

        def draw(key, rows, columns):
            return jax.random.uniform(key, (rows, columns), minval=low, maxval=high)

        circuit = Circuit()
        x = circuit.inputs("x", inputs, gain=self.input_gain, mirrored=True)
        bias = circuit.source("bias", [1.0, -1.0])
        hidden = circuit.nodes("h", self.hidden)
        circuit.crossbar("W1", x + bias, hidden, conductance=draw(one, 2 * inputs + 2, self.hidden), trainable=True)
        circuit.split("diode", hidden, SpiceDiode(self.saturation_current))
        y = circuit.nodes("y", outputs)
        circuit.crossbar("W2", hidden + bias, y, conductance=draw(two, self.hidden + 2, outputs), trainable=True)
        circuit.outputs(y)
        return circuit.compile()

    def _examples(self, config: "Config"):
        """Inputs and wanted voltages, to train on and to judge by; and what is done to inputs."""
        if config.data is None:
            inputs = jnp.asarray([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
            patterns = inputs, jnp.asarray(self.high * np.eye(2)[[0, 1, 1, 0]])
            return patterns, patterns, None
        data = load_data(config)
        train, test = (part.reshape(len(part), -1).astype(float) for part in (data.train_inputs, data.test_inputs))
        spread = train.std(0)
        # What never varies stays at 0.
        prepare = Standardise(jnp.asarray(train.mean(0)), jnp.asarray(np.where(spread > 0, spread, 1.0)))
        wanted = self.high * np.eye(data.classes)
        return (
            (prepare(jnp.asarray(train)), jnp.asarray(wanted[data.train_targets])),
            (prepare(jnp.asarray(test)), jnp.asarray(wanted[data.test_targets])),
            prepare,
        )

    def _bench(self, network: Network) -> Bench:
        if self.simulator == "own":
            return SimulatedBench(network, GraphNewton(rtol=1e-9, atol=1e-10), read_noise=self.read_noise)
        if self.read_noise:
            raise ValueError('`recipe.read_noise` needs `recipe.simulator = "own"`; ngspice reads without noise.')
        # Not opened yet: a run is also looked at (reported on) where there is no simulator, or where it is in use.
        return NgspiceBench(network, opened=False) if self.simulator == "library" else NgspiceBatchBench(network)
