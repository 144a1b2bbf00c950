"""A bench that is simulated: a device of one's own choosing, with noise and offsets, for rehearsals and tests."""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from eqprop.bridges.bench import Capabilities
from eqprop.bridges.errors import BenchError
from eqprop.bridges.ngspice import with_settings
from eqprop.equilibrium import RESULT
from eqprop.settle.base import Solver
from eqprop.substrates.circuit.network import Network
from eqprop.system import Nudged, System

__all__ = ["SimulatedBench", "operating_point"]


class SimulatedBench:
    """A circuit solved by one of the library's solvers, read with errors.

    Args:
        network: The device. It may hold more than its user knows of: diodes, leaks, other values.
        solver: Settles it.
        read_noise: Standard deviation of each reading of each node. [V]
        offset: Standard deviation over nodes of a constant error of their readings. [V]
        fault_rate: Probability that a phase fails with a `BenchError`.
        seed: Decides noise, offsets and faults.
        terminals: How many nodes are read, the first ones: those that the user's drawing of the circuit has. All by
            default.
    """

    def __init__(
        self,
        network: Network,
        solver: Solver,
        *,
        read_noise: float = 0.0,
        offset: float = 0.0,
        fault_rate: float = 0.0,
        seed: int = 0,
        terminals: int | None = None,
    ):
        if read_noise < 0 or offset < 0 or not 0 <= fault_rate < 1:
            raise ValueError(
                "`read_noise` and `offset` must not be negative and `fault_rate` must lie in [0, 1); got "
                f"{read_noise}, {offset}, {fault_rate}."
            )
        self._network, self._solver = network, solver
        self._noise, self._fault_rate = read_noise, fault_rate
        self._random = np.random.default_rng(seed)
        nodes = len(network.topology.names) if terminals is None else terminals
        self._offsets = np.where(np.arange(nodes) == 0, 0.0, offset * self._random.standard_normal(nodes))
        self.capabilities = Capabilities(
            terminals=nodes, outputs=len(network.topology.output_plus.array), read_noise=read_noise
        )

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Write parameters."""
        self._network = with_settings(self._network, parameters)

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """Settle and read all nodes, ground first. [V]

        Raises:
            BenchError: if a fault was drawn, or the solver did not settle.
        """
        if self._fault_rate and self._random.random() < self._fault_rate:
            raise BenchError("The simulated bench dropped this phase.")
        force = None if nudge is None else jnp.asarray(nudge)
        voltages, good = _operating_point(self._network, self._solver, jnp.asarray(inputs), force)
        voltages = np.asarray(voltages)[: len(self._offsets)]
        if not good:
            raise BenchError("The simulated device did not settle; give it a solver with more steps.")
        noise = self._noise * self._random.standard_normal(len(voltages))
        return voltages + self._offsets + np.where(np.arange(len(voltages)) == 0, 0.0, noise)

    def close(self) -> None:
        """Nothing is left open."""


class _Pulled(Nudged):
    """Constant forces on the outputs."""

    system: System
    outputs_force: Inexact[Array, " output"]
    beta: Inexact[Array, ""]

    def nudge_energy(self, state: PyTree) -> Inexact[Array, ""]:
        return -self.beta * jnp.sum(self.outputs_force * self.system.output(state))


def operating_point(
    network: Network, solver: Solver, inputs: Float[Array, " input"], force: Float[Array, " output"] | None
) -> tuple[Float[Array, " node"], Bool[Array, ""]]:
    """Voltages of all nodes [V] with currents into the outputs [A], and whether the solver settled."""
    start = network.initial_state(inputs)
    system = network
    if force is not None:
        system = _Pulled(network, force.astype(start.dtype), jnp.ones((), start.dtype))
    settled = solver.solve(system, inputs, start, free=None, key=None)
    return network.voltages(settled.restart, inputs), settled.result == RESULT.settled


_operating_point = eqx.filter_jit(operating_point)
