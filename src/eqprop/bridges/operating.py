"""Operating points: a circuit solved for a batch of inputs, with its books, or an error that names the node."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from eqprop.settle.base import Solver
from eqprop.settle.graph import GraphNewton, Stepped
from eqprop.settle.laplacian import Dense
from eqprop.substrates.circuit.errors import ConvergenceError, SingularCircuitError
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.power import Balance, balance
from eqprop.substrates.circuit.quantity import finite

__all__ = ["OperatingPoints", "operating_points"]


class OperatingPoints(NamedTuple):
    """Operating points of a batch."""

    state: Float[Array, "batch unit"]
    """Voltages of the free nodes. [V]"""
    voltages: Float[Array, "batch node"]
    """Of all nodes, in the order of `names`. [V]"""
    outputs: Float[Array, "batch output"]
    """What the circuit gives. [V]"""
    balance: Balance
    """Kirchhoff's residual [A] and powers [W]. [batch]"""
    settled: Bool[Array, " batch"]
    """Which examples were solved."""
    steps: Int[Array, " batch"]
    """Newton iterations."""
    names: tuple[str, ...]
    """Of the nodes."""


def operating_points(
    network: Network,
    inputs: Float[Array, "..."],
    solver: Solver | None = None,
    *,
    throw: bool = True,
) -> OperatingPoints:
    """Solve a circuit for a batch of inputs.

    Args:
        network: The compiled circuit.
        inputs: One row for each example.
        solver: Newton's method on the graph by default, with gmin and source stepping where it fails.
        throw: Whether to raise if an example is not solved. With False, look at `settled`.

    Raises:
        SingularCircuitError: where the conductances at a node cancel.
        ConvergenceError: where an example is not solved; names its worst node.
        ValueError: for inputs or parameters that are not finite, or inputs of another shape.
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim != 2 or inputs.shape[1] != network.topology.input_size:
        raise ValueError(
            f"`inputs` must have shape (examples, {network.topology.input_size}); got {inputs.shape}. For a single "
            "example add an axis: `inputs[None]`."
        )
    if not np.isfinite(np.asarray(inputs)).all():
        row, column = np.argwhere(~np.isfinite(np.asarray(inputs)))[0]
        raise ValueError(f"`inputs` holds NaN or infinity, first at index [{row}, {column}].")
    for name, element in network.items():
        for quantity, held in element.quantities().items():
            finite(f"`{name}.{quantity}`", held.value)
    solver = Stepped(GraphNewton(laplacian=Dense(convex=_passive(network)))) if solver is None else solver
    try:
        found, points = jax.block_until_ready(_solve(network, inputs, solver))
    except jax.errors.JaxRuntimeError as error:  # klujax's way of saying so
        if "singular" not in str(error):
            raise
        raise SingularCircuitError(
            "The conductances at some node cancel, so its voltage is not determined. The solver `Dense` or `SuperLU` "
            "tells which."
        ) from error
    if throw and not bool(jnp.all(found.settled)):
        raise _failure(network, inputs, found, points)
    return points


@eqx.filter_jit
def _solve(network, inputs, solver):
    def one(x):
        found = solver.solve(network, x, network.initial_state(x), free=None, key=None)
        books = balance(network, found.state, x)
        return found, network.voltages(found.state, x), network.output(found.state), books

    found, voltages, outputs, books = jax.vmap(one)(inputs)
    names = network.topology.names
    return found, OperatingPoints(found.state, voltages, outputs, books, found.settled, found.steps, names)


def _passive(network):
    return all(
        bool(jnp.all(jnp.asarray(q.value) >= 0))
        for _, e in network.items()
        for name, q in e.quantities().items()
        if name == "conductance"
    )


def _failure(network, inputs, found, points):
    bad = int(np.argmin(np.asarray(found.settled)))
    failed = int(np.sum(~np.asarray(found.settled)))
    still = jnp.where(jnp.isfinite(found.state[bad]), found.state[bad], 0)
    hessian = jax.hessian(network.energy)(still, inputs[bad])
    values, vectors = np.linalg.eigh(np.asarray(hessian))
    least = int(np.argmin(np.abs(values)))
    # Rounding in a sum of conductances leaves about eps of the largest.
    if abs(values[least]) <= 100 * np.finfo(values.dtype).eps * np.abs(values).max():
        node = network.topology.name(int(np.argmax(np.abs(vectors[:, least]))))
        return SingularCircuitError(
            f"The conductances at node `{node}` cancel, so its voltage is not determined. Change one of them, or add a "
            "resistor to ground."
        )
    node = network.topology.name(int(points.balance.worst[bad]))
    return ConvergenceError(
        f"{failed} of {len(found.steps)} examples were not solved; example {bad} stopped after {int(found.steps[bad])} "
        f"iterations with {float(points.balance.kirchhoff[bad]):.2g} A unbalanced at node `{node}`. Lower the "
        f"inputs, raise "
        "`max_steps`, or start from another state."
    )
