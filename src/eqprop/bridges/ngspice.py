"""Circuits that live in ngspice: a bench through the shared library, one through the batch program.

The library hands over a netlist once; then it sees terminal voltages only. Inputs and nudging currents change
through callbacks, conductances are altered in place, nothing is parsed again.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqprop.bridges.batch import run_batch
from eqprop.bridges.bench import BenchSolver, Capabilities
from eqprop.bridges.errors import OperatingPointError
from eqprop.bridges.libngspice import SharedNgspice
from eqprop.bridges.netlist_text import Card, Netlist, write_netlist
from eqprop.bridges.spice import TIGHT, netlist_of, resistance
from eqprop.settle.base import Solver
from eqprop.substrates.circuit.elements import InputSources
from eqprop.substrates.circuit.network import Network

__all__ = ["NgspiceBatchBench", "NgspiceBench", "NgspiceSolver"]

_CARDS = {"conductance": "R", "voltage": "V", "current": "I", "capacitance": "C"}


class NgspiceBench:
    """A circuit in the ngspice of this process.

    Args:
        network: The circuit; its parameters are the first settings.
        options: Simulator options.
        opened: Whether to take the simulator of this process at once, or when it is first needed.

    Raises:
        BackendUnavailable: if ngspice is not installed, or in use by another bench of this process.
    """

    def __init__(self, network: Network, *, options: Mapping[str, float] = TIGHT, opened: bool = True):
        self._network = network
        self._options = options
        self._ports = _Ports(network)
        self._last: dict[str, np.ndarray] = {}
        self._simulator: SharedNgspice | None = None
        if opened:
            _ = self.simulator

    @property
    def capabilities(self) -> Capabilities:
        """All nodes are read; outputs are nudged with either sign."""
        return self._ports.capabilities

    @property
    def simulator(self) -> SharedNgspice:
        """The simulator underneath, for commands of one's own."""
        if self._simulator is None:
            self._simulator = SharedNgspice(write_netlist(self._netlist(self._network), analyses=()))
            self._simulator.set_sources(self._ports.values(np.zeros(self._network.topology.input_size), None))
        return self._simulator

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Alter those element values that have changed, in place; reload where diode models have."""
        changed = {n: np.asarray(v, float) for n, v in parameters.items() if not np.array_equal(self._last.get(n), v)}
        if not changed:
            return
        direct = all(name.rpartition(".")[2] in _CARDS for name in changed)
        if direct:
            for name, values in changed.items():
                self.simulator.alter(_alterations(name, values, self._last.get(name)))
        else:
            self._network = with_settings(self._network, {**self._last, **changed})
            self.simulator.load(write_netlist(self._netlist(self._network), analyses=()))
        self._last |= {name: values.copy() for name, values in changed.items()}

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """One operating point: the voltages of all nodes, ground first. [V]

        Raises:
            OperatingPointError: if there is none.
        """
        self.simulator.set_sources(self._ports.values(inputs, nudge))
        self.simulator.operating_point()
        return self.simulator.voltages(self._ports.names)

    def close(self) -> None:
        """Give the simulator back."""
        if self._simulator is not None:
            self._simulator.close()

    def __enter__(self) -> "NgspiceBench":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _netlist(self, network):
        return self._ports.open(netlist_of(network, options=self._options))


class NgspiceBatchBench:
    """The same circuit through `ngspice -b`, a process for each operating point: slow, and any number at a time."""

    def __init__(self, network: Network, *, options: Mapping[str, float] = TIGHT, timeout: float = 120.0):
        self._network = network
        self._options = options
        self._timeout = timeout
        self._ports = _Ports(network)

    @property
    def capabilities(self) -> Capabilities:
        """All nodes are read; outputs are nudged with either sign."""
        return self._ports.capabilities

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Take over parameters."""
        self._network = with_settings(self._network, parameters)

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """One operating point: the voltages of all nodes, ground first. [V]"""
        opened = self._ports.open(netlist_of(self._network, options=self._options))
        values = self._ports.values(inputs, nudge)
        cards = tuple(dataclasses.replace(card, value=values.get(card.name, card.value)) for card in opened.cards)
        (plot,) = run_batch(write_netlist(dataclasses.replace(opened, cards=cards)), timeout=self._timeout)
        try:
            return np.array([0.0, *(plot.vectors[f"v({name.lower()})"][0] for name in self._ports.names[1:])])
        except KeyError as error:
            raise OperatingPointError(f"ngspice left no voltage {error} in its result.") from error

    def close(self) -> None:
        """Nothing is left open."""


class NgspiceSolver(Solver):
    """Operating points by ngspice, for `Terminals` of a network or for the network itself.

    Args:
        bench: An `NgspiceBench` or `NgspiceBatchBench`, or the network for which to open the former.
    """

    bench: BenchSolver
    host: ClassVar[bool] = True

    def __init__(self, bench: NgspiceBench | NgspiceBatchBench | Network):
        opened = NgspiceBench(bench) if isinstance(bench, Network) else bench
        self.bench = BenchSolver(opened, retries=0)

    def solve(self, system, inputs, start, *, free, key):
        """One operating point."""
        return self.bench.solve(system, inputs, start, free=free, key=key)

    def close(self) -> None:
        """Give the simulator back."""
        self.bench.bench.close()


class _Ports:
    """Where a netlist is driven and read: input sources, nudging currents, node names."""

    def __init__(self, network):
        t = network.topology
        self.names = t.names
        self.gain = t.output_gain
        self.plus = t.output_plus.array
        self.minus = None if t.output_minus is None else t.output_minus.array
        self.inputs = [
            (f"V{name}_{k}", number, gain)
            for name, element in network.items()
            if isinstance(element, InputSources)
            for k, (number, gain) in enumerate(zip(element.number, element.gain, strict=True))
        ]
        self.capabilities = Capabilities(terminals=len(t.names), outputs=len(self.plus))

    def open(self, netlist: Netlist) -> Netlist:
        """The netlist with external sources at its inputs and outputs."""
        external = {name for name, _, _ in self.inputs}
        cards = [dataclasses.replace(card, value=None) if card.name in external else card for card in netlist.cards]
        # From ground, through the source, into the output.
        cards += [Card(f"Inudge_p{k}", ("0", self.names[n])) for k, n in enumerate(self.plus)]
        if self.minus is not None:
            cards += [Card(f"Inudge_m{k}", ("0", self.names[n])) for k, n in enumerate(self.minus)]
        return dataclasses.replace(netlist, cards=tuple(cards))

    def values(self, inputs, nudge) -> dict[str, float]:
        """Values of the external sources. An output that reads `gain` times a voltage feels `gain` times the force."""
        forces = np.zeros(len(self.plus)) if nudge is None else nudge
        found = {name: gain * float(inputs[number]) for name, number, gain in self.inputs}
        found |= {f"Inudge_p{k}": self.gain * float(f) for k, f in enumerate(forces)}
        if self.minus is not None:
            found |= {f"Inudge_m{k}": -self.gain * float(f) for k, f in enumerate(forces)}
        return found


def _alterations(name, values, last):
    group, _, quantity = name.rpartition(".")
    kind = _CARDS[quantity]
    flat = np.ravel(values)
    new = resistance(flat) if kind == "R" else flat
    which = np.arange(len(flat)) if last is None else np.flatnonzero(flat != np.ravel(last))
    return {f"{kind}{group}_{k}": float(new[k]) for k in which}


def with_settings(network: Network, settings: Mapping[str, Float[np.ndarray, "..."]]) -> Network:
    """The network with quantities set by name: `W1.conductance`."""
    for name, value in settings.items():
        group, _, quantity = name.rpartition(".")
        if group not in network.elements or quantity not in network.elements[group].quantities():
            raise ValueError(f"There is no quantity `{name}` in this circuit.")
        old = network.elements[group].quantities()[quantity]
        new = old.at(jnp.reshape(jnp.asarray(value), old.shape))
        network = eqx.tree_at(
            lambda n, g=group, q=quantity: n.elements[g].quantities()[q], network, new,
            is_leaf=lambda node, old=old: node is old,
        )  # fmt: skip
    return network
