"""Equilibria: stationary states that know whether they are one."""

import abc
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
from jaxtyping import Array, Bool, Inexact, Int, PyTree

__all__ = ["RESULT", "AbstractEquilibrium", "Equilibrium"]

T = TypeVar("T")


class RESULT(eqx.Enumeration):
    """How a phase, or a whole estimate, ended. The message names cause and remedy."""

    settled = ""
    max_steps_reached = (
        "Not settled within `max_steps`. Raise `max_steps`, lower the solver's step, or loosen `rtol`/`atol`; "
        "gradients from this state would be wrong."
    )
    diverged = (
        "The state became infinite or NaN while settling. The energy may be unbounded below, the step too long "
        "or the couplings too strong: lower the step or the weights, or use `Newton`."
    )
    singular = (
        "The second derivative of the energy is singular at this state: some direction of the state costs no "
        "energy. Pin it, add a restoring term, or fix the symmetry. A path has such a direction at a conjugate point (change "
        "its duration) and, when it is periodic and autonomous, in its shift in time (give `Periodic` a pin)."
    )
    branch_lost = (
        "A small change led to a different branch of rest states, or across a kink: the state did not respond in "
        "proportion. Lower beta (or the finite-difference step), and start nudged phases at the free state."
    )
    not_retraced = (
        "The echo did not retrace the run: rounding has outgrown the nudge, or the nudge its linear range, because the "
        "motion is chaotic or unstable. Shorten the run (`honest_length` names the longest honest one), compute in "
        "float64, or try another beta."
    )
    unstable_step = (
        "The time step is too large for stability: step times the highest frequency exceeds 2. Lower the step."
    )
    nudge_lost = (
        "The nudge moved nothing above the accuracy of the free state. Raise beta, tighten the solver's "
        "`rtol`/`atol`, or compute in float64."
    )


class AbstractEquilibrium(eqx.Module):
    """What settling returns: one rest state, an ensemble of samples, or repeated readings."""

    state: eqx.AbstractVar[PyTree]
    result: eqx.AbstractVar[RESULT]
    residual: eqx.AbstractVar[Inexact[Array, "*batch"]]
    steps: eqx.AbstractVar[Int[Array, "*batch"]]

    @property
    def settled(self) -> Bool[Array, "*batch"]:
        """Whether this is an equilibrium, to the solver's tolerance."""
        return self.result == RESULT.settled

    @property
    @abc.abstractmethod
    def restart(self) -> PyTree:
        """The state at which a nudged phase begins."""

    @abc.abstractmethod
    def expect(self, fn: Callable[[PyTree], T]) -> T:
        """`fn` of the state, or its mean over samples or repeated readings."""


class Equilibrium(AbstractEquilibrium):
    """A single stationary state.

    `residual` is how far from rest the solver still saw the state when it stopped, as a root mean square
    over the state's units and in the state's own unit: the distance to the block minimisers
    (`BlockDescent`, `FixedPoint`), the Newton step (`Newton`), the speed of the flow (`GradientFlow`, where
    it is the projected gradient itself).
    """

    state: PyTree
    result: RESULT
    residual: Inexact[Array, "*batch"]
    steps: Int[Array, "*batch"]
    stats: dict[str, Array] = eqx.field(default_factory=dict)
    """What the solver learned on the way, such as the over-relaxation it chose; nudged phases begin with it."""

    @property
    def restart(self) -> PyTree:
        """The state itself."""
        return self.state

    def expect(self, fn):
        """`fn` of the state."""
        return fn(self.state)
