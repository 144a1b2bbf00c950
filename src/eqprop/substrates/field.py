r"""One-way couplings: networks that rest where a vector field vanishes, $f(\theta, x, s^\star) = 0$.

With $J = \partial f/\partial s$ the true gradient is $-J^{-\top}\partial_s C\cdot\partial_\theta f$. A nudged field,
$f(s) - \beta\,\partial_s C = 0$, moves along $J^{-1}\partial_s C$ instead. Three ways to learn:

* `OneWay` with `FieldForced`: the vector-field rule, $-\tfrac{ds}{d\beta}\cdot\partial_\theta f(s^\star)$. Exact only
  where J is symmetric; the bias does *not* vanish with beta.
* `OneWay` with `AntisymmetricForced`: the nudged field is given the extra force $(J^\top - J)(s - s^\star)$. Exact.
* `Doubled`: the scalar $A(m, d) = -\langle d, f(\theta, m)\rangle$ of two copies $s^\pm = m \pm d/2$. Stationary where
  $f(m) = 0$ and $d = 0$; there $A$ and $\partial_\theta A$ vanish, so one nudged phase is enough (`OnePhase`). Exact
  for any field: asymmetric, recurrent or feed-forward.

Source:
    B. Scellier et al., Generalization of equilibrium propagation to vector field dynamics, 2018. R. Hoier, D. Staudt
    and C. Zach, Dual propagation, 2023 (dyads). A. Scurria et al., Equilibrium propagation for non-conservative
    systems, 2026 (arXiv 2602.03670).
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from eqprop.system import Forced, Nudged, System

__all__ = [
    "AntisymmetricForced",
    "Doubled",
    "Dyads",
    "Field",
    "FieldForced",
    "OneWay",
]


class Field(eqx.Module):
    """A vector field of (state, inputs) for one example; its own inexact JAX arrays are the parameters."""

    @abc.abstractmethod
    def velocity(self, state: PyTree, inputs: PyTree) -> PyTree:
        """The field, a tree like the state: zero at rest. Its flow should be stable, as for minus a gradient."""

    @abc.abstractmethod
    def initial_state(self, inputs: PyTree) -> PyTree:
        """Where settling starts."""

    def output(self, state: PyTree) -> PyTree:
        """What is read and nudged; the state itself by default."""
        return state


class OneWay(System):
    """A vector field as solvers see it: its "energy" has minus the field for its gradient, and no other meaning.

    Where the field is no gradient, no energy has that gradient: the value returned is arbitrary. Take `FieldForced` or
    `AntisymmetricForced` as the nudge; a contrast of "energies" under another nudge is refused.
    """

    field: Field

    def energy(self, state, inputs):
        return _work(self.field, state, inputs)

    def initial_state(self, inputs):
        return self.field.initial_state(inputs)

    def output(self, state):
        return self.field.output(state)


class Doubled(System):
    r"""Any field as a scalar: $A(m, d) = -\langle d, f(\theta, m)\rangle$, with state (mean, difference) of two copies.

    Settle it with `DoubledFlow`, which for feed-forward networks ends after two passes, or with `Newton`, which with
    `Dyads` may find a saddle far from the free state, since there is no free phase to start from. Read at the mean,
    so that with `CostNudged` the gradient is exact at every beta; `Dyads` nudges each copy, as two physical copies
    would be.
    """

    field: Field

    free_vanishes: ClassVar[bool] = True

    def energy(self, state, inputs):
        mean, difference = state
        return -_inner(difference, self.field.velocity(mean, inputs))

    def initial_state(self, inputs):
        start = self.field.initial_state(inputs)
        return start, jax.tree.map(jnp.zeros_like, start)

    def output(self, state):
        return self.field.output(state[0])

    def copies(self, state: PyTree) -> tuple[PyTree, PyTree]:
        """The two copies, mean plus and minus half the difference."""
        mean, difference = state
        return tuple(jax.tree.map(lambda m, d, s=side: m + s * d, mean, difference) for side in (0.5, -0.5))


class _FieldNudge(Nudged):
    """A constant force, and the contrast of the field at the free state in place of a difference of energies."""

    system: OneWay
    pull: Forced
    anchor: PyTree
    beta: Inexact[Array, ""]

    corrected: eqx.AbstractClassVar[bool]
    """Whether the antisymmetric force is added."""

    def __init__(self, system: System, cost: Callable, targets: PyTree, free: PyTree, beta: Inexact[Array, ""]):
        if not isinstance(system, OneWay):
            raise ValueError(
                f"`{type(self).__name__}` nudges a `OneWay` field; got `{type(system).__name__}`. Systems with an "
                "energy take `Forced` or `CostNudged`."
            )
        self.system = system
        self.pull = Forced(system, cost, targets, free, beta)
        self.anchor = jax.lax.stop_gradient(free.restart)
        self.beta = beta

    def energy(self, state, inputs):
        return _anchored(self.system.field, state, self.anchor, inputs, self.corrected) + self.nudge_energy(state)

    def nudge_energy(self, state):
        return self.pull.nudge_energy(state)


class FieldForced(_FieldNudge):
    """The vector-field rule: the constant force of `Forced`, and the contrast of the field at the free state.

    Biased wherever the couplings are not symmetric; `certify` says by how much.
    """

    corrected: ClassVar[bool] = False


class AntisymmetricForced(_FieldNudge):
    r"""`FieldForced` with the force $(J^\top - J)(s - s^\star)$ added, J the field's slope at the free state: exact."""

    corrected: ClassVar[bool] = True


class Dyads(Nudged):
    r"""Both copies of a doubled system nudged: $A + \tfrac{\beta}{2}(C(o(s^+)) + C(o(s^-)))$; order 2 in beta."""

    system: Doubled
    cost: Callable
    targets: PyTree
    beta: Inexact[Array, ""]

    def __init__(self, system: System, cost: Callable, targets: PyTree, free: PyTree, beta: Inexact[Array, ""]):
        del free
        if not isinstance(system, Doubled):
            raise ValueError(f"`Dyads` nudges the two copies of a `Doubled` system; got `{type(system).__name__}`.")
        self.system = system
        self.cost = cost
        self.targets = targets
        self.beta = beta

    def nudge_energy(self, state):
        costs = [self.cost(self.system.field.output(copy), self.targets) for copy in self.system.copies(state)]
        return 0.5 * self.beta * (costs[0] + costs[1])


@eqx.filter_custom_jvp
def _work(field, state, inputs):
    return -_inner(state, field.velocity(state, inputs))


@_work.def_jvp
def _work_jvp(primals, tangents):
    field, state, inputs = primals
    field_dot, state_dot, inputs_dot = tangents
    if jax.tree.leaves(field_dot) or jax.tree.leaves(inputs_dot):
        raise ValueError(
            "A one-way field has no energy whose contrast would be a gradient. Use `nudge=AntisymmetricForced` "
            "(exact), `nudge=FieldForced` (biased where couplings are not symmetric), or the system `Doubled(field)`."
        )
    velocity = field.velocity(state, inputs)
    return -_inner(state, velocity), -_along(state_dot, velocity)


@eqx.filter_custom_jvp
def _anchored(field, state, anchor, inputs, corrected):
    del corrected
    return -_inner(_minus(state, anchor), field.velocity(anchor, inputs))


@_anchored.def_jvp
def _anchored_jvp(primals, tangents):
    # In the state: minus the (corrected) field there. In the parameters: minus their force at the free state.
    field, state, anchor, inputs, corrected = primals
    field_dot, state_dot, _, inputs_dot, _ = tangents
    moved = _minus(state, anchor)

    def value(field, inputs):
        return -_inner(moved, field.velocity(anchor, inputs))

    result, change = eqx.filter_jvp(value, (field, inputs), (field_dot, inputs_dot))
    velocity = field.velocity(state, inputs)
    if corrected:
        _, forward = jax.jvp(lambda s: field.velocity(s, inputs), (anchor,), (moved,))
        (backward,) = jax.vjp(lambda s: field.velocity(s, inputs), anchor)[1](moved)
        velocity = jax.tree.map(lambda v, b, f: v + b - f, velocity, backward, forward)
    change = jnp.zeros_like(result) if change is None else change
    return result, change - _along(state_dot, velocity)


def _along(direction, velocity):
    """Pairing with a tangent, whose leaves may be missing."""
    pairs = zip(jax.tree.leaves(direction, is_leaf=lambda x: x is None), jax.tree.leaves(velocity), strict=True)
    return sum(
        (jnp.sum(d * v) for d, v in pairs if d is not None), start=jnp.zeros((), jax.tree.leaves(velocity)[0].dtype)
    )


def _inner(a, b):
    return sum(jnp.sum(u * v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)
