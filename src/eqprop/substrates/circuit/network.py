r"""Compiled circuits: systems whose energy is the co-content, in watts.

$$J(s, x; \theta) = \sum_b w_b \hat G_b(u_b; \theta_b) - \sum_n w_n I_n v_n$$

over branches $b$ with voltages $u_b$ and current sources $I_n$. The derivative in a free node's voltage is the
sum of the
currents that leave it, so Kirchhoff's current law holds where $J$ is stationary; where no current decreases with
its voltage, $J$ is convex. The weights $w$ are 1 but before amplifiers (`topology`). $J$ is half the dissipated power
where all branches are ohmic and there are no current sources; otherwise it is no power at all.

Source:
    W. Millar, Some general theorems for non-linear systems possessing resistance, 1951. J. Kendall et al., Training
    end-to-end analog neural networks with equilibrium propagation, 2020.
"""

import warnings

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqprop.substrates.circuit.devices import IdealDiode, like
from eqprop.substrates.circuit.elements import Branches, BranchGroup, CurrentSources, Element, Nodes, VoltageSources
from eqprop.substrates.circuit.errors import CircuitError, WeaklyGroundedNode
from eqprop.substrates.circuit.topology import Topology, analyse, ideal_bounds
from eqprop.substrates.circuit.units import number
from eqprop.system import Edges, GraphSystem

__all__ = ["Network"]


class Network(GraphSystem):
    """A circuit to be solved and trained. Made by `Circuit.compile`.

    The state holds the voltages of the free nodes [V] (`topology.units` says which), the inputs are numbers that set
    the input sources, the output is what `Circuit.outputs` named [V]. Parameters are the trainable quantities of the
    elements: conductances [S], source voltages [V], currents [A], diode parameters.
    """

    elements: dict[str, Element]
    """By name. For the order of the netlist see `items`."""
    order: tuple[str, ...] = eqx.field(static=True)
    """Names of the elements in the order of the netlist."""
    topology: Topology = eqx.field(static=True)
    minimal_conductance: float = eqx.field(static=True)
    groups: tuple[tuple[str, Nodes], ...] = eqx.field(static=True)

    def __init__(self, circuit, *, minimal_conductance: float | int | str = 0.0, allow_nonconvex: bool = False):
        self.topology, weak = analyse(circuit, allow_nonconvex=allow_nonconvex)
        self.elements = dict(circuit.elements)
        self.order = tuple(circuit.elements)
        self.groups = tuple(circuit.groups.items())
        self.minimal_conductance = float(number(minimal_conductance))
        if self.minimal_conductance < 0:
            raise ValueError(f"`minimal_conductance` must not be negative; got {minimal_conductance}.")
        if weak:
            self._report_weak(weak)
        self.bounds()

    def _report_weak(self, weak):
        names = ", ".join(f"`{self.topology.names[n]}`" for n in sorted(weak)[:3])
        message = (
            f"Node {names}{' and others' if len(weak) > 3 else ''} reaches ground or a source only through diodes or "
            "conductances of zero"
        )
        if self.minimal_conductance == 0:
            raise CircuitError(
                f"{message}, and would float when they do not conduct. Add a resistor, or compile with "
                "`minimal_conductance=1e-12`."
            )
        warnings.warn(f"{message}; `minimal_conductance` holds it.", WeaklyGroundedNode, stacklevel=5)

    def items(self) -> list[tuple[str, Element]]:
        """Names and elements in the order of the netlist (JAX sorts the keys of a dictionary)."""
        return [(name, self.elements[name]) for name in self.order]

    # Nodes

    def source_voltages(self, inputs: Float[Array, " input"], dtype: np.dtype) -> Float[Array, " source"]:
        """Voltages of all sources: the inputs, then the constant ones in the order of the netlist. [V]"""
        if not self.topology.input_size:
            return self._constant_sources(dtype)
        flat = jnp.ravel(inputs).astype(dtype)
        if flat.shape[0] != self.topology.input_size:
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} hold {flat.shape[0]} numbers; this circuit has "
                f"{self.topology.input_size} inputs."
            )
        return jnp.concatenate([flat, self._constant_sources(dtype)])

    def voltages(self, state: Float[Array, " unit"], inputs: Float[Array, " input"]) -> Float[Array, " node"]:
        """Voltages of all nodes, ground first, in the order of `topology.names`. [V]"""
        t = self.topology
        units = jnp.concatenate([state, jnp.zeros(1, state.dtype)])[t.unit.array]
        held = self._offsets(self.source_voltages(inputs, state.dtype))
        return jnp.asarray(t.gain.array, state.dtype) * units + held

    def _offsets(self, sources):
        t = self.topology
        raised = jnp.asarray(t.offset_gain.array, sources.dtype) * sources[t.offset_source.array]
        return jnp.zeros(len(t.names), sources.dtype).at[t.offset_node.array].add(raised)

    def voltage(self, name: str, state: Float[Array, " unit"], inputs: Float[Array, " input"]) -> Float[Array, " node"]:
        """Voltages of the nodes made under a name. [V]"""
        return self.voltages(state, inputs)[self.nodes(name).index]

    def nodes(self, name: str) -> Nodes:
        """The nodes made under a name."""
        for group, nodes in self.groups:
            if group == name:
                return nodes
        if name in self.topology.names:
            return Nodes(np.array(self.topology.names.index(name)))
        raise ValueError(f"There are no nodes `{name}`; there are: {', '.join(g for g, _ in self.groups)}.")

    # The system

    def initial_state(self, inputs):
        dtype = jnp.result_type(inputs) if jnp.issubdtype(jnp.result_type(inputs), jnp.inexact) else jnp.zeros(()).dtype
        zero = jnp.zeros(len(self.topology.units), dtype)
        bounds = self.bounds()
        return zero if bounds is None else jnp.clip(zero, *(b.astype(dtype) for b in bounds))

    def output(self, state):
        t = self.topology
        # Outputs are not tied to inputs (the topology sees to that), so these may count as zero.
        nodes = self.voltages(state, jnp.zeros(t.input_size, state.dtype))
        read = nodes[t.output_plus.array]
        if t.output_minus is not None:
            read = read - nodes[t.output_minus.array]
        return t.output_gain * read

    def _constant_sources(self, dtype):
        sources = [like(e.voltage, jnp.zeros((), dtype)) for _, e in self.items() if isinstance(e, VoltageSources)]
        return jnp.concatenate([*sources, jnp.zeros(0, dtype)])

    def quadratic(self, state, inputs):
        nodes = self.voltages(state, inputs)
        total = jnp.zeros((), state.dtype)
        for name, e in self.items():
            if isinstance(e, BranchGroup) and e.linear:
                total = total + e.cocontent(nodes, self.branch_weight(name))
            elif isinstance(e, CurrentSources):
                weight = jnp.asarray(self.topology.weight.array, nodes.dtype)
                driven = weight * nodes
                drop = driven[e.into.index] - driven[e.out_of.index]
                total = total - jnp.sum(like(e.current, nodes) * drop)
        if self.minimal_conductance:
            units = np.array(self.topology.units)
            weight = jnp.asarray(self.minimal_conductance * self.topology.weight.array[units], nodes.dtype)
            total = total + 0.5 * jnp.sum(weight * nodes[units] ** 2)
        return total

    def branch_weight(self, name: str) -> float | Float[np.ndarray, " branch"]:
        """What each branch of a group counts in the co-content: 1, unless there are amplifiers."""
        element, weight = self.elements[name], self.topology.weight.array
        if (weight == 1.0).all():
            return 1.0
        assert isinstance(element, BranchGroup)
        tails, heads = element.tail.index, element.head.index
        each = np.where(self.topology.unit.array[tails] >= 0, weight[tails], weight[heads])
        return float(each[0]) if (each == each[0]).all() else each

    def bounds(self):
        """Bounds that ideal diodes set on the units [V]; None where there are no ideal diodes."""
        ideal = [(n, e) for n, e in self.items() if isinstance(e, Branches) and isinstance(e.device, IdealDiode)]
        if not ideal:
            return None
        dtype = jnp.zeros(()).dtype
        sources = self.source_voltages(jnp.zeros(self.topology.input_size, dtype), dtype)
        lower = jnp.full(len(self.topology.units), -jnp.inf, dtype)
        upper = jnp.full(len(self.topology.units), jnp.inf, dtype)
        for name, element in ideal:
            for unit, side, source, gain in ideal_bounds(self.topology, name, element):
                wall = jnp.sum(jnp.asarray(gain, dtype) * sources[source])
                if side > 0:
                    upper = upper.at[unit].min(wall)
                else:
                    lower = lower.at[unit].max(wall)
        return lower, upper

    # Structure for solvers

    def _linear(self):
        return [(n, e) for n, e in self.items() if isinstance(e, BranchGroup) and e.linear]

    def _nonlinear(self):
        return [
            (n, e)
            for n, e in self.items()
            if isinstance(e, Branches) and not e.linear and not isinstance(e.device, IdealDiode)
        ]

    def edges(self):
        grounded = np.array(self.topology.units if self.minimal_conductance else (), int)
        linear = [(e.tail.index, e.head.index) for _, e in self._linear()] + [(grounded, 0 * grounded)]
        nonlinear = [(e.tail.index, e.head.index) for _, e in self._nonlinear()]
        return self._edges(linear), self._edges(nonlinear)

    def _edges(self, ends):
        tails = np.concatenate([np.zeros(0, int), *(t for t, _ in ends)]).astype(int)
        heads = np.concatenate([np.zeros(0, int), *(h for _, h in ends)]).astype(int)
        unit, gain = self.topology.unit.array, self.topology.gain.array
        tail, head, tail_gain, head_gain = unit[tails], unit[heads], gain[tails], gain[heads]
        # Both ends on one unit (an amplifier with feedback): one end, with the difference of the gains.
        same = (tail == head) & (tail >= 0)
        return Edges(tail, np.where(same, -1, head), np.where(same, tail_gain - head_gain, tail_gain), head_gain)

    def quadratic_stiffness(self):
        dtype = jnp.result_type(float)
        parts = [jnp.zeros(0, dtype)]
        for name, e in self._linear():
            each = e.slope(jnp.zeros(len(e), dtype))
            parts.append(each * jnp.asarray(self.branch_weight(name), dtype))
        if self.minimal_conductance:
            parts.append(
                jnp.asarray(self.minimal_conductance * self.topology.weight.array[list(self.topology.units)], dtype)
            )
        return jnp.concatenate(parts)

    def extension(self, state, inputs):
        nodes = self.voltages(state, inputs)
        parts = [nodes[e.tail.index] - nodes[e.head.index] for _, e in self._nonlinear()]
        return jnp.concatenate([*parts, jnp.zeros(0, state.dtype)])

    def _each_nonlinear(self, method, extension):
        parts, start = [jnp.zeros(0, extension.dtype)], 0
        for name, e in self._nonlinear():
            own = extension[start : start + len(e)]
            weight = jnp.asarray(self.branch_weight(name), extension.dtype)
            parts.append(weight * jnp.broadcast_to(method(e)(own), own.shape))
            start += len(e)
        return jnp.concatenate(parts)

    def edge_energy(self, extension):
        return self._each_nonlinear(lambda e: e.device.cocontent, extension)

    def tension(self, extension):
        return self._each_nonlinear(lambda e: e.device.current, extension)

    def stiffness(self, extension):
        return self._each_nonlinear(lambda e: e.device.slope, extension)
