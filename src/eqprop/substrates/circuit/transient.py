r"""Circuits with capacitors: how an operating point is reached, how fast, and at what energy.

With capacitors the free voltages follow $M\dot s = -\partial J/\partial s$, $M$ the capacitance matrix: a
gradient flow, on
which the co-content falls. Near rest the time constants are the eigenvalues of $H^{-1}M$.

Source:
    W. Millar, Some general theorems for non-linear systems possessing resistance, 1951.
"""

from collections.abc import Sequence
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
from jaxtyping import Array, Float

from eqprop.substrates.circuit.devices import like
from eqprop.substrates.circuit.elements import Capacitors
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.power import balance

__all__ = [
    "Transient",
    "capacitance_matrix",
    "energy_of_inference",
    "energy_of_update",
    "settling_time",
    "time_constants",
    "transient",
]


class Transient(NamedTuple):
    """A circuit on its way."""

    time: Float[Array, " moment"]
    """[s]"""
    state: Float[Array, "moment unit"]
    """Voltages of the free nodes. [V]"""
    cocontent: Float[Array, " moment"]
    """It falls, while the inputs stand still. [W]"""


def capacitance_matrix(network: Network) -> Float[Array, "unit unit"]:
    """Of the free nodes, weighted as the co-content is. [F]

    Raises:
        ValueError: if a free node has no capacitor.
    """
    t, size = network.topology, len(network.topology.units)
    unit, gain, weight = t.unit.array, t.gain.array, t.weight.array
    matrix, bare = jnp.zeros((size + 1, size + 1)), np.ones(size + 1, bool)
    for _, e in network.items():
        if not isinstance(e, Capacitors):
            continue
        tails, heads = e.tail.index, e.head.index
        bare[unit[tails]] = bare[unit[heads]] = False
        each = like(e.capacitance, matrix) * np.where(unit[tails] >= 0, weight[tails], weight[heads])
        for a, b, sign in ((tails, tails, 1), (heads, heads, 1), (tails, heads, -1), (heads, tails, -1)):
            matrix = matrix.at[unit[a], unit[b]].add(sign * gain[a] * gain[b] * each)
    if bare[:size].any():
        raise ValueError(
            f"Node `{t.name(int(np.argmax(bare[:size])))}` has no capacitor; a transient needs one at every free node: "
            "`circuit.capacitors(name, nodes, circuit.ground, ...)`."
        )
    return matrix[:size, :size]


def transient(
    network: Network,
    inputs: Float[Array, " input"],
    times: Float[Array, " moment"],
    *,
    start: Float[Array, " unit"] | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    max_steps: int = 100_000,
) -> Transient:
    """The way to the operating point, from `start` (all nodes at 0 V) at time 0, the inputs being switched on.

    Args:
        network: A circuit with a capacitor at every free node, and no ideal diodes.
        inputs: Inputs of one example.
        times: When to look, rising, from 0 on. [s]
        start: Voltages of the free nodes at time 0. [V]
        rtol: Relative tolerance of the integrator.
        atol: Absolute tolerance of the integrator. [V]
        max_steps: Most steps.

    Raises:
        ValueError: for circuits with ideal diodes, or a free node without capacitor.
    """
    if network.bounds() is not None:
        raise ValueError("Ideal diodes stop a flow at once; use `PiecewiseLinearDiode` or `SpiceDiode` in transients.")
    factor = jax.scipy.linalg.cho_factor(capacitance_matrix(network))
    start = network.initial_state(inputs) if start is None else start

    def velocity(time, state, args):
        del time, args
        return -jax.scipy.linalg.cho_solve(factor, jax.grad(network.energy)(state, inputs))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Kvaerno5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
    )
    states = solution.ys
    return Transient(times, states, jax.vmap(lambda s: network.energy(s, inputs))(states))


def time_constants(
    network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"]
) -> Float[Array, " unit"]:
    """Time constants near an operating point, the slowest last. [s]"""
    hessian = jax.hessian(network.energy)(state, inputs)
    inverse = jnp.linalg.inv(jnp.linalg.cholesky(capacitance_matrix(network)))
    rates = jnp.linalg.eigvalsh(jnp.dot(jnp.dot(inverse, hessian), inverse.T))
    return 1 / rates[::-1]


def settling_time(
    network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"], *, precision: float = 1e-3
) -> Float[Array, ""]:
    """Time in which the slowest part of a deviation from an operating point falls to `precision` of it. [s]"""
    return time_constants(network, state, inputs)[-1] * jnp.log(1 / precision)


def energy_of_inference(
    network: Network, state: Float[Array, " unit"], inputs: Float[Array, " input"], *, precision: float = 1e-3
) -> Float[Array, ""]:
    """Power at the operating point times the time to settle to a relative `precision`. [J]"""
    return balance(network, state, inputs).absorbed * settling_time(network, state, inputs, precision=precision)


def energy_of_update(
    network: Network,
    state: Float[Array, " unit"],
    inputs: Float[Array, " input"],
    nudged: Sequence[Float[Array, " unit"]],
    *,
    precision: float = 1e-3,
) -> Float[Array, ""]:
    """What one example costs when it is learned from: the free phase, then one settling for each nudged phase. [J]

    Args:
        network: A circuit with a capacitor at every free node.
        state: Its free equilibrium. [V]
        inputs: Inputs of the example.
        nudged: States of the nudged phases: two for a symmetric nudge. [V]
        precision: Every phase is waited for until this is left of its way.
    """
    energies = [energy_of_inference(network, phase, inputs, precision=precision) for phase in (state, *nudged)]
    return jnp.sum(jnp.stack(energies))
