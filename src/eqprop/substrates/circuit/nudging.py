r"""How strongly to nudge a circuit.

With $H$ the second derivative of the co-content at the operating point and $B$ the derivative of the outputs
in the free
voltages, the outputs respond to injected currents by the port resistance $R = B H^{-1} B^\top$; its inverse is
the port conductance $S$. A nudging strength in siemens means little by itself: a fraction of
$\lambda_\mathrm{min}(S)$ is the
same in a circuit of megohms and in one of ohms. A nudge by a negative conductance is stable above
$-\lambda_\mathrm{min}(S)$ only.

Read noise $\sigma$ adds an error $\sigma/(\beta r)$ to a contrast of phases, for a response $r$ [V/S];
curvature on the scale
$V_0$ adds $(\beta r/V_0)^p$ for a rule of order $p$. Their sum of squares is least at $\beta \propto \sigma^{1/(p+1)}$.

Source:
    J. Kendall et al., Training end-to-end analog neural networks with equilibrium propagation, 2020.
"""

import warnings

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from eqprop.substrates.circuit.errors import NudgeTooStrong, WeakNudge
from eqprop.system import System

__all__ = ["check_nudge", "port_conductance", "port_resistance", "relative_beta", "suggest_beta"]


@eqx.filter_jit
def port_resistance(system: System, state: PyTree, inputs: PyTree) -> Float[Array, "output output"]:
    """How the outputs move with currents injected at them, at an operating point. [Ω]

    Args:
        system: The circuit.
        state: Its free equilibrium. [V]
        inputs: Inputs of the example.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(state)
    hessian = jax.hessian(lambda s: system.energy(unravel(s), inputs))(flat)
    read = jax.jacrev(lambda s: jnp.ravel(system.output(unravel(s))))(flat)
    bounds = system.bounds()
    if bounds is not None:
        walls = [jax.tree.map(lambda w, s: jnp.broadcast_to(w, s.shape).astype(s.dtype), b, state) for b in bounds]
        lower, upper = (jax.flatten_util.ravel_pytree(w)[0] for w in walls)
        held = (flat <= lower) | (flat >= upper)
        hessian = jnp.where(held[:, None] | held[None, :], jnp.eye(flat.size, dtype=flat.dtype), hessian)
        read = jnp.where(held[None, :], 0, read)
    return jnp.dot(read, jnp.linalg.solve(hessian, read.T))


def port_conductance(system: System, state: PyTree, inputs: PyTree) -> Float[Array, "output output"]:
    """The outputs' conductance matrix seen from outside: the Schur complement of the second derivative. [S]"""
    return jnp.linalg.inv(port_resistance(system, state, inputs))


def relative_beta(fraction: float | int, system: System, state: PyTree, inputs: PyTree) -> float:
    """The nudging strength that is `fraction` of the smallest port conductance, in siemens. 0.01 is a good start.

    Args:
        fraction: Without unit.
        system: The circuit.
        state: Free equilibrium of a typical example. [V]
        inputs: Inputs of that example.
    """
    largest = jnp.linalg.eigvalsh(port_resistance(system, state, inputs))[-1]
    return float(fraction / largest)


def suggest_beta(
    read_noise: float | int,
    response: float | int,
    *,
    voltage_scale: float = 0.0259,
    order: int = 2,
) -> float:
    r"""The nudging strength at which read noise and curvature together cost least.

    Args:
        read_noise: Standard deviation of one voltage reading. [V]
        response: Volts that the nodes move per siemens of nudging strength (port resistance times force). [V/S]
        voltage_scale: Change of voltage over which devices bend: $nV_T$ for diodes; for piecewise linear networks the
            typical voltage of a node. [V]
        order: Of the difference rule: 1 one-sided, 2 symmetric.

    Returns:
        Nudging strength. [S]

    Example:
        >>> round(suggest_beta(1e-3, response=100.0), 6)
        7.8e-05
    """
    for name, value in (("read_noise", read_noise), ("response", response), ("voltage_scale", voltage_scale)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be positive; got {value}.")
    # d/dz [z^(2p) V^(-2p) + σ² z^(-2)] = 0 for the displacement z = β r.
    displacement = (read_noise**2 * voltage_scale ** (2 * order) / order) ** (1 / (2 * order + 2))
    return float(displacement / response)


def check_nudge(
    beta: float | int,
    system: System,
    state: PyTree,
    inputs: PyTree,
    force: Float[Array, " output"],
    *,
    read_noise: float = 0.0,
    voltage_scale: float = 0.0259,
    conductance: bool = False,
) -> float:
    """How far the outputs will move, and whether that can be told from noise and rounding.

    Args:
        beta: Nudging strength. [S]
        system: The circuit.
        state: Free equilibrium of a typical example. [V]
        inputs: Inputs of that example.
        force: Minus the slope of the cost at the outputs: the nudging current is beta times it. [V]
        read_noise: Standard deviation of one voltage reading. [V]
        voltage_scale: As in `suggest_beta`. [V]
        conductance: Whether the nudge is a conductance to a target (`CostNudged`) instead of a current.

    Returns:
        The root mean square of the outputs' displacement. [V]

    Raises:
        NudgeTooStrong: for a negative conductance beyond the port conductance.

    Warns:
        WeakNudge: if the displacement is below ten times the noise, or lost in rounding.
    """
    resistance = port_resistance(system, state, inputs)
    bound = float(1 / jnp.linalg.eigvalsh(resistance)[-1])
    if conductance and beta <= -bound:
        raise NudgeTooStrong(
            f"A nudging conductance of {beta:g} S exceeds the port conductance: above {-bound:g} S only is the "
            f"operating "
            "point stable. Lower beta, or nudge by a current (`nudge=Forced`), which has no bound."
        )
    response = float(jnp.sqrt(jnp.mean(jnp.dot(resistance, force) ** 2)))
    moved = abs(beta) * response
    voltages = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(state)])
    # Ten units in the last place of the largest voltage: below that a contrast of phases has no digits.
    floor = 10 * float(np.finfo(voltages.dtype).eps) * float(jnp.max(jnp.abs(voltages)))
    if response > 0 and moved < max(10 * read_noise, floor):
        noise = max(read_noise, floor)
        better = suggest_beta(noise, response, voltage_scale=voltage_scale)
        warnings.warn(
            f"beta = {beta:g} S moves the outputs by {moved:.2g} V, against {noise:.2g} V of noise and rounding. "
            f"beta = {better:.2g} S costs least.",
            WeakNudge,
            stacklevel=2,
        )
    return moved
