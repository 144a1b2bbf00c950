r"""What the library knows of a circuit on a bench: its trained branches, and the voltages at their terminals.

$$J_\mathrm{known}(v; \theta) = \sum_{b\ \mathrm{trained}} w_b \hat G_b(v_{t(b)} - v_{h(b)}; \theta_b)
- \sum_n w_n I_n v_n$$

For conductances that is $\tfrac12 g u^2$ each. Its derivative in $\theta$ at the measured voltages is that of the
whole co-content, because a parameter occurs in its own branch alone. Diodes, sources and parasitics may be anything
reciprocal. The stationary point of this part alone means nothing: only the bench can settle it.
"""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from eqprop.substrates.circuit.devices import like
from eqprop.substrates.circuit.elements import BranchGroup, CurrentSources, Element
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.quantity import Constant
from eqprop.system import System

__all__ = ["Terminals"]


class Terminals(System):
    """The trained part of a circuit as a function of all node voltages [W]; the state is the readings [V].

    Args:
        network: Says what is trained, where, and what is read and nudged. Nothing else of it is used.

    Raises:
        ValueError: if voltage sources are trained (that takes readings of their currents), or nothing is.
    """

    elements: Mapping[str, Element]
    weights: tuple[tuple[str, float | Constant], ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    """Of the nodes that are read, ground first."""
    output_plus: Constant = eqx.field(static=True)
    output_minus: Constant | None = eqx.field(static=True)
    output_gain: float = eqx.field(static=True)

    def __init__(self, network: Network):
        trained = {n: e for n, e in network.items() if any(q.trainable for q in e.quantities().values())}
        for name, element in trained.items():
            if not isinstance(element, BranchGroup | CurrentSources):
                raise ValueError(
                    f"`{name}` trains a `{type(element).__name__}`, whose gradient is no function of node voltages. "
                    "Train a `norton` source instead, or use the whole network as the system."
                )
        if not trained:
            raise ValueError("Nothing in this circuit is trained; give elements `trainable=True`.")
        t = network.topology
        self.elements = trained
        self.weights = tuple((name, _hashable(_weight(network, name))) for name in trained)
        self.names = t.names
        self.output_plus, self.output_minus, self.output_gain = t.output_plus, t.output_minus, t.output_gain

    def energy(self, state, inputs):
        del inputs
        total = jnp.zeros((), state.dtype)
        for name, weight in self.weights:
            element = self.elements[name]
            if isinstance(element, BranchGroup):
                total = total + element.cocontent(state, weight.array if isinstance(weight, Constant) else weight)
            else:
                assert isinstance(element, CurrentSources)
                assert isinstance(weight, Constant)
                driven = jnp.asarray(weight.array, state.dtype) * state
                drop = driven[element.into.index] - driven[element.out_of.index]
                total = total - jnp.sum(like(element.current, state) * drop)
        return total

    def initial_state(self, inputs):
        dtype = jnp.result_type(inputs) if jnp.issubdtype(jnp.result_type(inputs), jnp.inexact) else jnp.zeros(()).dtype
        return jnp.zeros(len(self.names), dtype)

    def output(self, state):
        read = state[self.output_plus.array]
        if self.output_minus is not None:
            read = read - state[self.output_minus.array]
        return self.output_gain * read


def _weight(network, name):
    if isinstance(network.elements[name], CurrentSources):
        return network.topology.weight.array
    return network.branch_weight(name)


def _hashable(weight):
    return Constant(np.asarray(weight)) if np.ndim(weight) else float(weight)
