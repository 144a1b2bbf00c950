r"""Hopfield networks: units with a potential, coupled by a multilinear function.

$$E(s) = \sum_i G_i(s_i) - \Phi(x, s), \qquad
\Phi = \sum_{(j,k)} s^{(j)\top} W^{(jk)} s^{(k)} + \sum_k b^{(k)\top} s^{(k)}$$

with inputs $s^{(0)} = x$ clamped. $G' = \sigma^{-1}$, so units rest at $s = \sigma(\partial\Phi/\partial s)$; layers
without a connection between them are minimised exactly and together. Energies have no unit here.

Source:
    J. J. Hopfield, Neurons with graded response have collective computational properties like those of
    two-state neurons, 1984. B. Scellier and Y. Bengio, Equilibrium propagation, 2017, section 3.
"""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PRNGKeyArray, PyTree

from eqprop.substrates.activation import Activation, HardSigmoid, Linear
from eqprop.substrates.graph import colour
from eqprop.system import System

__all__ = ["GraphHopfield", "Hopfield", "LayeredHopfield", "Readout"]


class Hopfield(System):
    """Units with potentials, minus a coupling that is linear in each unit: the base of the family.

    A network says what its `coupling` and its `activations` are (a tree of `Activation`s, one for each leaf of the
    state); energy, bounds and exact block minimisers follow.
    """

    @abc.abstractmethod
    def coupling(self, state: PyTree, inputs: PyTree) -> Inexact[Array, ""]:
        r"""$\Phi(x, s)$, linear in every unit, with no product of two units of one block."""

    @abc.abstractmethod
    def activations(self) -> PyTree:
        """A tree of activations, one for each leaf of the state."""

    @property
    def holomorphic(self) -> bool:
        """Whether all activations are analytic."""
        return all(a.holomorphic for a in _activation_leaves(self.activations()))

    def energy(self, state, inputs):
        potentials = jax.tree.map(
            lambda a, s: jnp.sum(a.potential(s)), self.activations(), state, is_leaf=_is_activation
        )
        return sum(jax.tree.leaves(potentials)) - self.coupling(state, inputs)

    def bounds(self):
        activations = self.activations()
        if all(a.lower == -math.inf and a.upper == math.inf for a in _activation_leaves(activations)):
            return None
        lower = jax.tree.map(lambda a: a.lower, activations, is_leaf=_is_activation)
        upper = jax.tree.map(lambda a: a.upper, activations, is_leaf=_is_activation)
        return lower, upper

    def minimise_block(self, block, state, inputs, force):
        blocks = self.blocks()
        assert blocks is not None
        mask = blocks[block]
        leaves, tree = jax.tree.flatten(state)
        masks = tree.flatten_up_to(mask)
        inside = [i for i, m in enumerate(masks) if not isinstance(m, bool) or m]

        def coupling(chosen):
            return self.coupling(tree.unflatten(_replaced(leaves, inside, chosen)), inputs)

        drives = jax.grad(coupling, holomorphic=jnp.iscomplexobj(leaves[0]))([leaves[i] for i in inside])
        if force is not None:
            forces = tree.flatten_up_to(force)
            drives = [d + forces[i] for d, i in zip(drives, inside, strict=True)]
        activations = _activation_leaves(self.activations())
        rested = [activations[i](d) for d, i in zip(drives, inside, strict=True)]
        kept = [
            r if isinstance(masks[i], bool) else jnp.where(masks[i], r, leaves[i])
            for r, i in zip(rested, inside, strict=True)
        ]
        return tree.unflatten(_replaced(leaves, inside, kept))


class Readout(eqx.Module):
    """A linear map from the last layer to the outputs (logits, for a softmax readout trained with cross-entropy)."""

    weight: Float[Array, "unit label"]
    bias: Float[Array, " label"]

    def __init__(self, units: int, labels: int, *, key: PRNGKeyArray, gain: float = 0.7):
        self.weight = _uniform(key, (units, labels), gain)
        self.bias = jnp.zeros(labels)


class LayeredHopfield(Hopfield):
    """A deep Hopfield network: layers of units, inputs first, neighbours coupled; skip connections at will.

    Args:
        sizes: Units of each layer, the inputs first and the outputs last.
        key: Random key for the weights, uniform within ±gain/sqrt(fan-in).
        activation: Of the hidden layers.
        output: Of the last layer: linear by default, because saturated output units learn nothing.
        softmax: Whether the last size is that of a linear readout in `output`, to be trained with
            `CrossEntropy`, instead of a layer of units.
        skips: Further connections, pairs of layer numbers (0 is the inputs), such as `[(0, 2)]`.
        gain: Scale of the initial weights.

    Raises:
        ValueError: if there are fewer than two layers, or a skip names no pair of different layers.
    """

    weights: tuple[Float[Array, "pre post"], ...]
    biases: tuple[Float[Array, " unit"], ...]
    readout: Readout | None
    units: tuple[Activation, ...]
    connections: tuple[tuple[int, int], ...] = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        key: PRNGKeyArray,
        activation: Activation | None = None,
        output: Activation | None = None,
        softmax: bool = False,
        skips: Sequence[tuple[int, int]] = (),
        gain: float = 0.7,
    ):
        layers = list(sizes[:-1]) if softmax else list(sizes)
        if len(layers) < 2 or min(sizes) < 1:
            raise ValueError(
                "`sizes` must name the inputs and at least one layer of units (before a softmax readout), all "
                f"positive; got {list(sizes)}."
            )
        hidden = HardSigmoid() if activation is None else activation
        last = hidden if softmax else (Linear() if output is None else output)
        self.units = (hidden,) * (len(layers) - 2) + (last,)
        chain = [(i, i + 1) for i in range(len(layers) - 1)]
        extra = [(min(p), max(p)) for p in skips]
        for pair in extra:
            if pair[0] == pair[1] or not 0 <= pair[0] < len(layers) or not 0 < pair[1] < len(layers) or pair in chain:
                raise ValueError(f"`skips` holds {pair}, which joins no two new layers among 0 to {len(layers) - 1}.")
        self.connections = (*chain, *extra)
        keys = jax.random.split(key, len(self.connections) + 1)
        self.weights = tuple(
            _uniform(k, (layers[i], layers[j]), gain) for k, (i, j) in zip(keys, self.connections, strict=False)
        )
        self.biases = tuple(jnp.zeros(n) for n in layers[1:])
        self.readout = Readout(layers[-1], sizes[-1], key=keys[-1], gain=gain) if softmax else None

    def coupling(self, state, inputs):
        layers = (_vector(inputs, self.weights[0].shape[0]), *state)
        total = sum(jnp.sum(b * s) for b, s in zip(self.biases, state, strict=True))
        for (i, j), weight in zip(self.connections, self.weights, strict=True):
            # In this order the drive of the inputs does not depend on the state, and leaves the loop. Sums of products,
            # because many small `dot`s, one for each example and phase, are slow in the derivative.
            total = total + jnp.sum(jnp.dot(layers[i], weight) * layers[j])
        return total

    def activations(self):
        return self.units

    def initial_state(self, inputs):
        dtype = jnp.result_type(inputs, self.biases[0])
        return tuple(jnp.full(b.shape, a.rest, dtype) for a, b in zip(self.units, self.biases, strict=True))

    def output(self, state):
        if self.readout is None:
            return state[-1]
        return jnp.dot(state[-1], self.readout.weight) + self.readout.bias

    def blocks(self):
        count = len(self.units)
        colours = colour(count, [(i - 1, j - 1) for i, j in self.connections if i > 0])
        return tuple(tuple(bool(c == k) for c in colours) for k in range(max(colours) + 1))


class GraphHopfield(Hopfield):
    """A Hopfield network on any graph. Nodes 0 to inputs - 1 are clamped to the inputs, the rest are units.

    Args:
        inputs: Number of input nodes.
        units: Number of units.
        edges: Pairs of nodes, each pair once; units count on from the inputs.
        outputs: Nodes that are read; units all.
        key: Random key for the weights, uniform within ±gain/sqrt(degree).
        activation: Of the units.
        output: Of the output units, linear by default.
        gain: Scale of the initial weights.

    Raises:
        ValueError: for edges that repeat, join a node to itself or name no node, and outputs that are no units.
    """

    weight: Float[Array, " edge"]
    bias: Float[Array, " unit"]
    hidden: Activation
    last: Activation
    inputs: int = eqx.field(static=True)
    edges: tuple[tuple[int, int], ...] = eqx.field(static=True)
    outputs: tuple[int, ...] = eqx.field(static=True)
    colours: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        units: int,
        edges: Sequence[tuple[int, int]] | Int[np.ndarray, "edge 2"],
        outputs: Sequence[int],
        *,
        key: PRNGKeyArray,
        activation: Activation | None = None,
        output: Activation | None = None,
        gain: float = 0.7,
    ):
        nodes = inputs + units
        pairs = [(int(min(pair)), int(max(pair))) for pair in edges]
        wrong = [p for p in pairs if p[0] == p[1] or p[0] < 0 or p[1] >= nodes or p[1] < inputs]
        if wrong or len(set(pairs)) < len(pairs):
            repeated = [p for p in set(pairs) if pairs.count(p) > 1]
            raise ValueError(
                f"`edges` must join two different nodes among 0 to {nodes - 1}, at least one of them a unit, each pair "
                f"once; got {(wrong + repeated)[:3]}."
            )
        if not outputs or any(not inputs <= node < nodes for node in outputs):
            raise ValueError(f"`outputs` must name units, nodes {inputs} to {nodes - 1}; got {list(outputs)}.")
        self.inputs = inputs
        self.edges = tuple(pairs)
        self.outputs = tuple(int(node) for node in outputs)
        self.hidden = HardSigmoid() if activation is None else activation
        self.last = Linear() if output is None else output
        degree = max(1.0, 2 * len(pairs) / nodes)
        self.weight = _uniform(key, (len(pairs),), gain, fan_in=degree)
        self.bias = jnp.zeros(units)
        self.colours = colour(units, [(i - inputs, j - inputs) for i, j in pairs if i >= inputs])

    def coupling(self, state, inputs):
        nodes = jnp.concatenate([_vector(inputs, self.inputs).astype(state["hidden"].dtype), self._together(state)])
        tails, heads = np.asarray(self.edges).T if self.edges else np.zeros((2, 0), int)
        return jnp.sum(self.weight * nodes[tails] * nodes[heads]) + jnp.dot(self.bias, nodes[self.inputs :])

    def activations(self):
        return {"hidden": self.hidden, "outputs": self.last}

    def initial_state(self, inputs):
        dtype = jnp.result_type(inputs, self.bias)
        hidden = self.bias.shape[0] - len(self.outputs)
        return {
            "hidden": jnp.full(hidden, self.hidden.rest, dtype),
            "outputs": jnp.full(len(self.outputs), self.last.rest, dtype),
        }

    def output(self, state):
        return state["outputs"]

    def blocks(self):
        colours, (hidden, outputs) = np.asarray(self.colours), self._places()
        return tuple(
            {"hidden": colours[hidden] == k, "outputs": colours[outputs] == k} for k in range(max(self.colours) + 1)
        )

    def _places(self):
        """Which units the two leaves of the state hold, in order."""
        outputs = np.asarray(self.outputs) - self.inputs
        return np.setdiff1d(np.arange(self.bias.shape[0]), outputs), outputs

    def _together(self, state):
        """All units in the order of the nodes."""
        order = np.argsort(np.concatenate(self._places()))
        return jnp.concatenate([state["hidden"], state["outputs"]])[order]


def _uniform(key, shape, gain, fan_in=None):
    limit = gain / math.sqrt(shape[0] if fan_in is None else fan_in)
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def _vector(inputs, size):
    flat = jnp.ravel(inputs)
    if flat.shape[0] != size:
        raise ValueError(
            f"`inputs` of shape {jnp.shape(inputs)} hold {flat.shape[0]} numbers; this network has {size} inputs."
        )
    return flat


def _replaced(leaves, places, new):
    leaves = list(leaves)
    for place, leaf in zip(places, new, strict=True):
        leaves[place] = leaf
    return leaves


def _is_activation(node):
    return isinstance(node, Activation)


def _activation_leaves(tree):
    return jax.tree.leaves(tree, is_leaf=_is_activation)
