r"""Systems: one scalar function of a state and its inputs.

A physical system rests where its scalar (energy, co-content, action, free energy) is stationary,
$\partial E/\partial s\,(\theta, x, s^\star) = 0$. A nudge is a system too: $E$ plus a weak extra term
on the outputs, so nothing that settles a system needs to know of learning.

* `Forced`: $F = E - \beta\langle f, o(s)\rangle$ with the constant force
  $f = -\partial C/\partial o$ taken at the free equilibrium. The curvature of the free system is kept.
* `CostNudged`: $F = E + \beta C(o(s), y)$.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, chapter 2.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PRNGKeyArray, PyTree

from eqprop.cost import Cost
from eqprop.equilibrium import AbstractEquilibrium

__all__ = [
    "Clamped",
    "Conditionals",
    "ConstantForce",
    "CostNudged",
    "Edges",
    "Forced",
    "GraphSystem",
    "Nudge",
    "Nudged",
    "Sum",
    "System",
    "leaves_read",
    "project",
]


class System(eqx.Module):
    """A scalar function of (state, inputs) for one example; its own inexact arrays are the parameters.

    Write `energy` and `initial_state`; the rest has defaults. Every array of floating point among the fields, JAX's or
    NumPy's, is a parameter; constants that are not to be trained are Python numbers, or static fields (tuples).
    """

    holomorphic: ClassVar[bool] = False
    """Whether `energy` accepts complex states and is analytic in them (no abs, max, clip, conj)."""

    free_vanishes: ClassVar[bool] = False
    """Whether energy and its parameter-derivative vanish at every free equilibrium: one nudged phase is then enough."""

    discrete: ClassVar[bool] = False
    """Whether the state takes discrete values only (spins), so that there is no gradient to follow."""

    @abc.abstractmethod
    def energy(self, state: PyTree, inputs: PyTree) -> Inexact[Array, ""]:
        """The scalar whose stationary points are the rest states. [the system's own unit]"""

    @abc.abstractmethod
    def initial_state(self, inputs: PyTree) -> PyTree:
        """Where settling starts, a tree of floating-point arrays."""

    def output(self, state: PyTree) -> PyTree:
        """What is read and nudged; readout weights, if any, live here. The state itself by default."""
        return state

    def bounds(self) -> tuple[PyTree, PyTree] | None:
        """Lower and upper bounds: two trees like the state, with leaves that broadcast to it; or None."""
        return None

    def blocks(self) -> tuple[PyTree, ...] | None:
        """Masks (trees like the state, of bools or boolean NumPy arrays) that partition the state.

        No two units of one block may interact, so that all of them can be minimised at once.
        """
        return None

    def minimise_block(self, block: int, state: PyTree, inputs: PyTree, force: PyTree | None) -> PyTree | None:
        r"""The state with block number `block` replaced by its minimiser, the other blocks held.

        Args:
            block: Index into `blocks()`.
            state: Current state.
            inputs: Inputs of the example.
            force: Constant external force on the state, a tree like the state: the function minimised is
                $E(s) - \langle\mathrm{force}, s\rangle$. None for no force.

        Returns:
            The new state, or None (the default) where there is no closed form; solvers then use the
            gradient and curvature of the block.
        """
        del block, state, inputs, force
        return None

    def block_curvature(self) -> PyTree | None:
        """Diagonal of the second derivative inside blocks that `minimise_block` minimises, a tree like the state.

        For blocks that are quadratic, up to bounds. None (the default) stands for ones, the curvature of units with an
        activation; it decides how fast a nudged phase converges, not where to.
        """
        return None

    def conditionals(
        self, inputs: PyTree, nudge: Callable[[PyTree], Inexact[Array, ""]] | None
    ) -> "Conditionals | None":
        """How to redraw the state block by block from its Boltzmann distribution, for systems that know it.

        Args:
            inputs: Inputs of the example.
            nudge: A further energy, a function of the state through `output`; None for none.

        Returns:
            The draws, or None (the default) where the conditional distributions have no closed form.
        """
        del inputs, nudge
        return None

    def configurations(self) -> PyTree | None:
        """Every configuration of a discrete system, leading axis the configuration; None if continuous."""
        return None

    def __add__(self, other: "System") -> "Sum":
        return Sum((self, other))


class Conditionals(NamedTuple):
    """Draws from conditional Boltzmann distributions: see `System.conditionals`."""

    count: int
    """How many blocks there are."""
    noise: Callable[[PRNGKeyArray], PyTree]
    """The random numbers of one sweep over all blocks."""
    draw: Callable[[int | Int[Array, ""], PyTree, Inexact[Array, ""], PyTree], PyTree]
    """`(block, noise, temperature, state)` to the state with that block redrawn given the others."""


class Edges(NamedTuple):
    r"""Which units each edge joins: its extension is $u = g_t s_t - g_h s_h$ plus what the inputs add.

    Unit -1 is none (a wall, a source). NumPy arrays, of one length.
    """

    tail: Int[np.ndarray, " edge"]
    head: Int[np.ndarray, " edge"]
    tail_gain: Float[np.ndarray, " edge"]
    head_gain: Float[np.ndarray, " edge"]


class GraphSystem(System):
    r"""A system on a graph: a quadratic energy plus a function of each further edge's extension,

    $$E(s, x) = Q(s, x) + \sum_e \varphi_e(u_e), \qquad u = \text{affine in } s,$$

    where $Q$ too couples units along edges only. The second derivative is a weighted graph Laplacian with a constant
    part, which a solver assembles once, and one number for each further edge. The state is one vector of units.
    """

    @abc.abstractmethod
    def quadratic(self, state: Inexact[Array, " unit"], inputs: PyTree) -> Inexact[Array, ""]:
        """$Q$, quadratic in the state."""

    @abc.abstractmethod
    def edges(self) -> tuple[Edges, Edges]:
        """The edges of $Q$, and the further ones; static structure."""

    @abc.abstractmethod
    def quadratic_stiffness(self) -> Inexact[Array, " edge"]:
        """Second derivative of $Q$ in the extension of each of its edges."""

    @abc.abstractmethod
    def extension(self, state: Inexact[Array, " unit"], inputs: PyTree) -> Inexact[Array, " edge"]:
        """Extensions $u$ of the further edges."""

    @abc.abstractmethod
    def edge_energy(self, extension: Inexact[Array, " edge"]) -> Inexact[Array, " edge"]:
        r"""$\varphi_e(u_e)$."""

    @abc.abstractmethod
    def tension(self, extension: Inexact[Array, " edge"]) -> Inexact[Array, " edge"]:
        r"""$\varphi_e'(u_e)$."""

    @abc.abstractmethod
    def stiffness(self, extension: Inexact[Array, " edge"]) -> Inexact[Array, " edge"]:
        r"""$\varphi_e''(u_e)$."""

    def energy(self, state, inputs):
        return self.quadratic(state, inputs) + jnp.sum(self.edge_energy(self.extension(state, inputs)))


class Sum(System):
    """Systems that share one state and one set of inputs; energies add, the first gives start and output."""

    terms: tuple[System, ...]

    def __check_init__(self):
        if len(self.terms) == 0:
            raise ValueError("`Sum.terms` is empty; give at least one System.")

    def energy(self, state, inputs):
        total = self.terms[0].energy(state, inputs)
        for term in self.terms[1:]:
            total = total + term.energy(state, inputs)
        return total

    def initial_state(self, inputs):
        return self.terms[0].initial_state(inputs)

    def output(self, state):
        return self.terms[0].output(state)

    @property
    def discrete(self) -> bool:
        """Whether any term is."""
        return any(term.discrete for term in self.terms)

    def bounds(self):
        declared = [bounds for term in self.terms if (bounds := term.bounds()) is not None]
        if not declared:
            return None
        lower = jax.tree.map(lambda *b: jnp.stack(jnp.broadcast_arrays(*b)).max(0), *(b[0] for b in declared))
        upper = jax.tree.map(lambda *b: jnp.stack(jnp.broadcast_arrays(*b)).min(0), *(b[1] for b in declared))
        return lower, upper


class Nudged(System):
    """A system with a weak extra energy on its outputs. Structure (start, bounds, blocks) is the system's own."""

    system: eqx.AbstractVar[System]
    beta: eqx.AbstractVar[Inexact[Array, ""]]

    @abc.abstractmethod
    def nudge_energy(self, state: PyTree) -> Inexact[Array, ""]:
        """The extra energy, zero at beta = 0. [as the system's energy]"""

    def energy(self, state, inputs):
        return self.system.energy(state, inputs) + self.nudge_energy(state)

    def force(self, state: PyTree) -> PyTree:
        """The nudging force on the state, minus the derivative of `nudge_energy`; a tree like the state."""
        return jax.tree.map(jnp.negative, _gradient(self.nudge_energy, state))

    def initial_state(self, inputs):
        return self.system.initial_state(inputs)

    def output(self, state):
        return self.system.output(state)

    def bounds(self):
        return self.system.bounds()

    def blocks(self):
        return self.system.blocks()

    def block_curvature(self):
        return self.system.block_curvature()

    @property
    def discrete(self) -> bool:
        """As the system."""
        return self.system.discrete

    def conditionals(self, inputs, nudge):
        both = self.nudge_energy if nudge is None else lambda state: self.nudge_energy(state) + nudge(state)
        return self.system.conditionals(inputs, both)

    def configurations(self):
        return self.system.configurations()

    def loss(self, cost: Cost, targets: PyTree, phase: AbstractEquilibrium) -> Inexact[Array, ""]:
        """The loss whose gradient this kind of nudge estimates: the expected cost."""
        return phase.expect(lambda state: cost(self.output(state), targets))


Nudge = Callable[[System, Cost, PyTree, AbstractEquilibrium, Inexact[Array, ""]], Nudged]
"""`(system, cost, targets, free, beta)` to the nudged system; `Forced` and `CostNudged` are two."""


class ConstantForce(Nudged):
    """A nudge by a constant force: blocks are minimised as without it, under one force more."""

    def minimise_block(self, block, state, inputs, force):
        return self.system.minimise_block(block, state, inputs, _add(force, self.force(state)))


class Forced(ConstantForce):
    r"""A constant force on the outputs: $F = E - \beta\langle f, o(s)\rangle$.

    The force $f = -\partial C/\partial o$ is taken at the free equilibrium (at the mean output, where that
    is an ensemble) and then held. Any cost and either sign of beta are admitted.
    """

    system: System
    outputs_force: PyTree
    beta: Inexact[Array, ""]

    def __init__(
        self,
        system: System,
        cost: Cost,
        targets: PyTree,
        free: AbstractEquilibrium,
        beta: Inexact[Array, ""],
    ):
        slope = jax.grad(cost)(free.expect(system.output), targets)
        self.system = system
        self.outputs_force = jax.lax.stop_gradient(jax.tree.map(jnp.negative, slope))
        self.beta = beta

    def nudge_energy(self, state):
        return -self.beta * _inner(self.outputs_force, self.system.output(state))

    def loss(self, cost, targets, phase):
        """The cost of the expected output: a constant force sees no further into an ensemble."""
        return cost(phase.expect(self.output), targets)


class CostNudged(Nudged):
    r"""The thesis' nudge: $F = E + \beta C(o(s), y)$."""

    system: System
    cost: Cost
    targets: PyTree
    beta: Inexact[Array, ""]

    def __init__(
        self,
        system: System,
        cost: Cost,
        targets: PyTree,
        free: AbstractEquilibrium | None,
        beta: Inexact[Array, ""],
    ):
        del free
        self.system = system
        self.cost = cost
        self.targets = targets
        self.beta = beta

    def nudge_energy(self, state):
        return self.beta * self.cost(self.system.output(state), self.targets)

    def minimise_block(self, block, state, inputs, force):
        # The cost is linearised at the current state, and the step shortened by the share of its curvature in the
        # whole: the same rest point, and one exact step for a squared error on quadratic blocks.
        ones = jax.tree.map(jnp.ones_like, state)
        pull, stiffening = jax.jvp(self.force, (state,), (ones,))
        target = self.system.minimise_block(block, state, inputs, _add(force, pull))
        if target is None:
            return None
        own = self.system.block_curvature()
        own = ones if own is None else own
        step = jax.tree.map(
            lambda new, old, k, minus_c: old + (new - old) * (k / (k - minus_c)), target, state, own, stiffening
        )
        return project(self, step)


class Clamped(Nudged):
    """Outputs held at `outputs`: every output must be one coordinate of the state.

    The pinned coordinates get equal lower and upper bounds. `beta` is 1 and has no meaning here.
    """

    system: System
    pinned: PyTree
    values: PyTree
    beta: Inexact[Array, ""]

    def __init__(self, system: System, outputs: PyTree, state: PyTree):
        read, pull_back = jax.vjp(system.output, state)
        values = pull_back(outputs)[0]
        marks = pull_back(jax.tree.map(jnp.ones_like, read))[0]
        # For outputs that are coordinates of the state, reading what was pulled back returns it.
        again = system.output(values)
        gap = sum(
            jnp.sum(jnp.abs(a - b)) for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(outputs), strict=True)
        )
        size = sum(jnp.sum(jnp.abs(a)) for a in jax.tree.leaves(outputs))
        values = eqx.error_if(
            values,
            ~(gap <= 1e-4 * (1 + size)),
            "Outputs cannot be clamped: `output` is not a selection of state coordinates (a readout, say). "
            "Use `nudge=Forced` or `CostNudged` for this system.",
        )
        self.system = system
        self.values = values
        self.pinned = jax.tree.map(lambda m: m != 0, marks)
        self.beta = jnp.ones((), jax.tree.leaves(state)[0].dtype)

    def nudge_energy(self, state):
        return jnp.zeros((), jax.tree.leaves(state)[0].dtype)

    def initial_state(self, inputs):
        return project(self, self.system.initial_state(inputs))

    def bounds(self):
        own = self.system.bounds()
        if own is None:
            infinite = jax.tree.map(lambda v: jnp.full_like(v, jnp.inf), self.values)
            own = (jax.tree.map(jnp.negative, infinite), infinite)
        lower, upper = (jax.tree.map(jnp.where, self.pinned, self.values, side) for side in own)
        return lower, upper

    def minimise_block(self, block, state, inputs, force):
        free = self.system.minimise_block(block, state, inputs, force)
        return None if free is None else project(self, free)

    def conditionals(self, inputs, nudge):
        free = self.system.conditionals(inputs, nudge)
        if free is None:
            return None
        return Conditionals(free.count, free.noise, lambda *arguments: project(self, free.draw(*arguments)))


def project(system: System, state: PyTree) -> PyTree:
    """The nearest state within the system's bounds; the state itself where none are declared."""
    bounds = system.bounds()
    if bounds is None:
        return state
    return jax.tree.map(lambda s, low, high: jnp.minimum(jnp.maximum(s, low), high), state, *bounds)


def leaves_read(system: System, state: PyTree) -> list[bool]:
    """For each leaf of the state, whether the output looks at it: nudges pull at no other."""
    jaxpr = jax.make_jaxpr(system.output)(state).jaxpr
    seen = {id(v) for equation in jaxpr.eqns for v in equation.invars} | {id(v) for v in jaxpr.outvars}
    return [id(v) in seen for v in jaxpr.invars]


def _gradient(scalar, state):
    """Gradient in the state; holomorphic where the state is complex."""
    is_complex = any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(state))
    return jax.grad(scalar, holomorphic=is_complex)(state)


def _inner(a, b):
    return sum(jnp.sum(u * v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _add(a, b):
    return b if a is None else jax.tree.map(jnp.add, a, b)
