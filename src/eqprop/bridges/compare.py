"""Our operating points against ngspice's, node by node."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqprop.bridges.bench import Bench
from eqprop.bridges.ngspice import NgspiceBench
from eqprop.bridges.simulated import operating_point
from eqprop.settle.base import Solver
from eqprop.substrates.circuit.network import Network

__all__ = ["Comparison", "compare"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sets of node voltages of one circuit, on the same examples."""

    names: tuple[str, ...]
    ours: Float[np.ndarray, "example node"]
    """[V]"""
    theirs: Float[np.ndarray, "example node"]
    """[V]"""

    @property
    def difference(self) -> float:
        """Largest difference over nodes and examples. [V]"""
        return float(np.max(np.abs(self.ours - self.theirs)))

    @property
    def worst(self) -> str:
        """The node at which it occurs."""
        return self.names[int(np.argmax(np.max(np.abs(self.ours - self.theirs), axis=0)))]


def compare(
    network: Network,
    inputs: Float[Array | np.ndarray, "example input"],
    solver: Solver,
    *,
    nudge: Float[Array | np.ndarray, " output"] | None = None,
    bench: Bench | None = None,
) -> Comparison:
    """Solve the same examples with a solver of ours and with ngspice.

    Args:
        network: The circuit.
        inputs: Examples.
        solver: Ours, with tolerances below the difference to be seen.
        nudge: Constant currents into the outputs. [A]
        bench: The other side; an `NgspiceBench` of the network, opened and closed here, by default.

    Returns:
        The voltages of all nodes from both.

    Raises:
        RuntimeError: if our solver does not settle on an example.
        OperatingPointError: if ngspice finds none.
    """
    inputs = jnp.asarray(inputs)
    force = None if nudge is None else jnp.asarray(nudge)
    ours, good = _operating_points(network, solver, inputs, force)
    if not bool(good.all()):
        raise RuntimeError(f"Our solver did not settle on example {int(np.argmin(good))}; raise its `max_steps`.")
    opened = NgspiceBench(network) if bench is None else bench
    try:
        applied = None if nudge is None else np.asarray(nudge, float)
        theirs = np.stack([opened.apply(np.asarray(x, float), applied) for x in inputs])
    finally:
        if bench is None:
            opened.close()
    return Comparison(network.topology.names, np.asarray(ours), theirs)


@eqx.filter_jit
def _operating_points(network, solver, inputs, force):
    return jax.vmap(lambda x: operating_point(network, solver, x, force))(inputs)
