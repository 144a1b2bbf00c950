r"""Deep resistive networks: layers of nodes joined by crossbars, ideal diodes on the hidden ones.

$$J(s, x) = \tfrac12\sum_k\sum_{ij} g^k_{ij}(s^{k-1}_i - s^k_j)^2 - \sum_k b^k\cdot s^k,
\qquad s^0 = A_0\,(x, -x)$$

The first half of every hidden layer is kept at or above zero, the other half at or below: a convex quadratic programme
with bounds. Nodes of one layer are not joined, so given its neighbours a layer's minimiser is exact,

$$s^k = \mathrm{clip}\left(\frac{g^{k\top} s^{k-1} + g^{k+1} s^{k+1} + b^k}{\sum_i g^k_{ij} + \sum_l
g^{k+1}_{jl}}\right),$$

and odd and even layers are minimised in turn. The part $\tfrac12\sum g (s^0)^2$, which no state changes, is
left out of the
energy: it cancels from every contrast of phases, but would cost a float32 its digits.

Source:
    B. Scellier, A fast algorithm to simulate nonlinear resistive networks, 2024.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.power import Balance
from eqprop.system import System

__all__ = ["DeepResistiveNetwork"]


class DeepResistiveNetwork(System):
    """Crossbars between layers of nodes, ideal diodes to ground on hidden nodes. Energy: co-content in W.

    Train it with conductances kept at zero or above (`projection`, or the optimiser's bounds).

    Args:
        sizes: Inputs, nodes of the hidden layers, outputs. Every input holds two nodes, at plus and minus its voltage.
        key: Random key: conductances are uniform within ±1/sqrt(rows), negative ones then set to zero.
        input_gain: Volts per unit of input; passive layers attenuate, so deeper networks need more. [V]

    Example:
        >>> network = DeepResistiveNetwork([4, 8, 3], key=jax.random.key(0), input_gain=10.0)
        >>> network.conductances[0].shape  # +inputs and -inputs, hidden
        (8, 8)
    """

    conductances: tuple[Float[Array, "row column"], ...]
    """Of the crossbars, the mirrored inputs first. [S]"""
    currents: tuple[Float[Array, " column"], ...]
    """Bias currents into each node. [A]"""
    input_gain: float = eqx.field(static=True)

    def __init__(self, sizes: Sequence[int], *, key: PRNGKeyArray, input_gain: float = 100.0):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"`sizes` must name inputs and outputs at least, all positive; got {list(sizes)}.")
        rows = [2 * sizes[0], *sizes[1:-1]]
        keys = jax.random.split(key, len(rows))
        self.conductances = tuple(_initial(k, m, n) for k, m, n in zip(keys, rows, sizes[1:], strict=True))
        self.currents = tuple(jnp.zeros(n) for n in sizes[1:])
        self.input_gain = float(input_gain)

    def __check_init__(self):
        if not math.isfinite(self.input_gain) or self.input_gain <= 0:
            raise ValueError(f"`input_gain` must be positive, in volts; got {self.input_gain}.")

    def energy(self, state, inputs):
        total = -jnp.dot(self._driven(inputs), state[0])
        for k, (g, b, s) in enumerate(zip(self.conductances, self.currents, state, strict=True)):
            total = total + 0.5 * jnp.dot(g.sum(0), s**2) - jnp.dot(b, s)
            if k > 0:
                before = state[k - 1]
                total = total + 0.5 * jnp.dot(before**2, g.sum(1)) - jnp.dot(jnp.dot(before, g), s)
        return total

    def _driven(self, inputs):
        """Current that the inputs would send into the first layer, were it at 0 V. [A]"""
        x = jnp.ravel(inputs)
        first = self.conductances[0]
        if 2 * x.shape[0] != first.shape[0]:
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} hold {x.shape[0]} numbers; this network has "
                f"{first.shape[0] // 2} inputs."
            )
        # Mirrored inputs see the difference of the two halves: half the product.
        return jnp.dot(self.input_gain * x, first[: x.shape[0]] - first[x.shape[0] :])

    def circuit(self) -> Circuit:
        """The same as a netlist, to be compiled or exported: crossbars, ideal diodes, bias currents."""
        made = Circuit()
        nodes = made.inputs("x", self.conductances[0].shape[0] // 2, gain=self.input_gain, mirrored=True)
        for k, (g, b) in enumerate(zip(self.conductances, self.currents, strict=True), start=1):
            layer = made.nodes(f"s{k}_", b.shape[0])
            made.crossbar(f"W{k}", nodes, layer, conductance=np.asarray(g), trainable=True)
            made.current_source(f"b{k}", layer, np.asarray(b), trainable=True)
            if k < len(self.currents):
                made.split(f"d{k}", layer)
            nodes = layer
        made.outputs(nodes)
        return made

    def books(self, state: tuple[Float[Array, "..."], ...], inputs: Float[Array, "..."]) -> Balance:
        """Kirchhoff's residual and Tellegen's power balance at a state, from the currents of the crossbars.

        Use float64: the power is a difference of products with the squared input voltages.
        """
        x = self.input_gain * jnp.ravel(inputs)
        nodes = (jnp.concatenate([x, -x]), *state)
        leaving = [jnp.zeros_like(v) for v in nodes]
        absorbed = jnp.zeros((), x.dtype)
        for k, (g, b) in enumerate(zip(self.conductances, self.currents, strict=True)):
            rows, columns = nodes[k], nodes[k + 1]
            sent = rows * g.sum(1) - jnp.dot(g, columns)
            taken = jnp.dot(rows, g) - columns * g.sum(0)
            leaving[k], leaving[k + 1] = leaving[k] + sent, leaving[k + 1] - taken - b
            absorbed = absorbed + jnp.dot(rows, sent) - jnp.dot(columns, taken)
        lower, upper = self.bounds()
        # Where a diode conducts, it carries what is left over.
        excess = [
            jnp.where(((s <= low) & (net >= 0)) | ((s >= high) & (net <= 0)), 0, net)
            for s, net, low, high in zip(state, leaving[1:], lower, upper, strict=True)
        ]
        left_over = jnp.concatenate(excess)
        worst = jnp.argmax(jnp.abs(left_over))
        biased = sum(jnp.dot(b, s) for b, s in zip(self.currents, state, strict=True))
        delivered = jnp.dot(nodes[0], leaving[0]) + biased
        return Balance(jnp.abs(left_over[worst]), worst, delivered, absorbed)

    def initial_state(self, inputs):
        dtype = jnp.result_type(inputs, self.currents[0])
        return tuple(jnp.zeros(b.shape, dtype) for b in self.currents)

    def output(self, state):
        return state[-1]

    def bounds(self):
        walls = [_half_walls(b.shape[0], b.dtype) for b in self.currents[:-1]]
        last = self.currents[-1]
        walls.append((jnp.full(last.shape, -jnp.inf, last.dtype), jnp.full(last.shape, jnp.inf, last.dtype)))
        return tuple(low for low, _ in walls), tuple(high for _, high in walls)

    def blocks(self):
        layers = range(len(self.currents))
        odd, even = tuple(k % 2 == 0 for k in layers), tuple(k % 2 == 1 for k in layers)
        return (odd, even) if len(self.currents) > 1 else (odd,)

    def block_curvature(self):
        behind = [*(g.sum(1) for g in self.conductances[1:]), jnp.zeros((), self.currents[-1].dtype)]
        return tuple(g.sum(0) + b for g, b in zip(self.conductances, behind, strict=True))

    def minimise_block(self, block, state, inputs, force):
        lower, upper = self.bounds()
        layers, totals = list(state), self.block_curvature()
        for k in range(block, len(layers), 2):
            before = self._driven(inputs) if k == 0 else jnp.dot(state[k - 1], self.conductances[k])
            current, total = before + self.currents[k], totals[k]
            if k + 1 < len(layers):
                current = current + jnp.dot(self.conductances[k + 1], state[k + 1])
            if force is not None:
                current = current + force[k]
            # A node that no conductance reaches stays where it is.
            rest = jnp.where(total > 0, current / jnp.where(total > 0, total, 1), state[k])
            layers[k] = jnp.clip(rest, lower[k], upper[k])
        return tuple(layers)


def _initial(key, rows, columns):
    limit = 1 / math.sqrt(rows)
    return jnp.maximum(jax.random.uniform(key, (rows, columns), minval=-limit, maxval=limit), 0)


def _half_walls(count, dtype):
    """Excitatory nodes first, at or above 0 V; then inhibitory ones, at or below."""
    excitatory = jnp.arange(count) < (count + 1) // 2
    infinite, zero = jnp.asarray(jnp.inf, dtype), jnp.zeros((), dtype)
    return jnp.where(excitatory, zero, -infinite), jnp.where(excitatory, infinite, zero)
