r"""Currents and power of a solved circuit: Kirchhoff's residual, Tellegen's balance, dissipation.

Everything here is computed branch by branch from device currents, not from the solver's matrices, so that it checks
them. Tellegen: what the sources deliver, the branches take up.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqprop.substrates.circuit.devices import NortonSource, like
from eqprop.substrates.circuit.elements import Branches, BranchGroup, CurrentSources
from eqprop.substrates.circuit.network import Network

__all__ = ["Balance", "balance", "branch_currents", "leaving_currents"]


class Balance(NamedTuple):
    """The books of one operating point."""

    kirchhoff: Float[Array, "..."]
    """Largest net current at a free node that no diode wall holds. [A]"""
    worst: Int[Array, "..."]
    """The unit of the state where that is."""
    delivered: Float[Array, "..."]
    """By voltage sources, current sources, Norton sources and amplifiers. [W]"""
    absorbed: Float[Array, "..."]
    """By resistors and diodes: the dissipated power. [W]"""

    @property
    def tellegen(self) -> Float[Array, "..."]:
        """Delivered minus absorbed, over the larger; zero at an operating point."""
        largest = jnp.maximum(jnp.abs(self.delivered), jnp.abs(self.absorbed))
        return (self.delivered - self.absorbed) / jnp.where(largest > 0, largest, 1.0)


@eqx.filter_jit
def branch_currents(
    network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"]
) -> dict[str, Float[Array, " branch"]]:
    """Current of every branch, from tail to head, by group; ideal diodes show none. [A]"""
    nodes = network.voltages(state, inputs)
    return {
        name: e.current(nodes[e.tail.index] - nodes[e.head.index])
        for name, e in network.items()
        if isinstance(e, BranchGroup)
    }


@eqx.filter_jit
def leaving_currents(
    network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"]
) -> Float[Array, " node"]:
    """Net current that branches and current sources carry away from each node. [A]

    At a node that a source or an amplifier holds, it is what these deliver there.
    """
    total = jnp.zeros(len(network.topology.names), state.dtype)
    for name, current in branch_currents(network, state, inputs).items():
        element = network.elements[name]
        assert isinstance(element, BranchGroup)
        total = total.at[element.tail.index].add(current).at[element.head.index].add(-current)
    for _, e in network.items():
        if isinstance(e, CurrentSources):
            given = like(e.current, state)
            total = total.at[e.into.index].add(-given).at[e.out_of.index].add(given)
    if network.minimal_conductance:
        units = jnp.asarray(network.topology.units)
        total = total.at[units].add(network.minimal_conductance * network.voltages(state, inputs)[units])
    return total


@eqx.filter_jit
def balance(network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"]) -> Balance:
    """Kirchhoff's residual and Tellegen's power balance at a state.

    Args:
        network: The circuit.
        state: Voltages of the free nodes. [V]
        inputs: Inputs of the example.
    """
    nodes, leaving = network.voltages(state, inputs), leaving_currents(network, state, inputs)
    excess = _excess(network, state, leaving)
    worst = jnp.argmax(jnp.abs(excess))
    # All that leaves the nodes is delivered there by sources and amplifiers, but for what balances at no free node.
    delivered = jnp.sum(nodes * leaving) - jnp.sum(state * excess)
    absorbed = network.minimal_conductance * jnp.sum(nodes[jnp.asarray(network.topology.units)] ** 2)
    for name, current in branch_currents(network, state, inputs).items():
        e = network.elements[name]
        assert isinstance(e, BranchGroup)
        drop = nodes[e.tail.index] - nodes[e.head.index]
        if isinstance(e, Branches) and isinstance(e.device, NortonSource):
            inside = like(e.device.voltage, drop)
            delivered, drop = delivered - jnp.sum(current * inside), drop - inside
        absorbed = absorbed + jnp.sum(current * drop)
    for _, e in network.items():
        if isinstance(e, CurrentSources):
            delivered = delivered + jnp.sum(like(e.current, nodes) * (nodes[e.into.index] - nodes[e.out_of.index]))
    return Balance(jnp.abs(excess[worst]), worst, delivered, absorbed)


def _excess(network, state, leaving):
    """Net current at each unit, with the backward currents of amplifiers; none where an ideal diode carries it. [A]"""
    t = network.topology
    weight, units = t.weight.array, list(t.units)
    # An amplifier's input takes c of its output's current: c = (weight behind / weight before) gain.
    share = t.gain.array * weight / weight[units][t.unit.array]
    total = jnp.zeros(len(units) + 1, state.dtype)
    total = total.at[t.unit.array].add(jnp.asarray(share, state.dtype) * leaving)[:-1]
    bounds = network.bounds()
    if bounds is None:
        return total
    lower, upper = (jnp.asarray(b, state.dtype) for b in bounds)
    walled = ((state <= lower) & (total >= 0)) | ((state >= upper) & (total <= 0))
    return jnp.where(walled, 0, total)
