"""Equilibria: stationary states, or samples of a distribution, that know whether they are one."""

import abc
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int, PyTree

__all__ = ["RESULT", "AbstractEquilibrium", "Ensemble", "Equilibrium"]

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
        "energy. Pin it, add a restoring term, or fix the symmetry. A path has such a direction at a conjugate "
        "point (change "
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
    too_few_samples = (
        "The standard error of the samples is above the one asked for. Raise `chains`, `samples` or `thin`, or ask for "
        "less with `standard_error`."
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


class Ensemble(AbstractEquilibrium):
    r"""Samples of a stationary distribution, or all its configurations with their probabilities.

    `state` holds the samples, leading axis the sample, group after group; `residual` is the standard error of the mean
    state, as a root mean square over the units and in the state's own unit; `steps` counts updates of each chain.
    """

    state: PyTree
    last: PyTree
    """Where the chains stand now, leading axis the chain (the most probable configuration, where all were listed)."""
    result: RESULT
    residual: Inexact[Array, "*batch"]
    steps: Int[Array, "*batch"]
    weights: Inexact[Array, "*batch sample"] | None = None
    """Probabilities of the configurations; None for samples, which count alike."""
    free_energy: Inexact[Array, "*batch"] | None = None
    r"""$-T\log Z$, where it is known. [as the energy]"""
    step_bias: Float[Array, "*batch"] | None = None
    r"""Exact relative excess of the virial $\langle s\,\partial E/\partial s\rangle$ over $nT$ due to a finite step."""
    acceptance: Float[Array, "*batch"] | None = None
    """Mean acceptance of proposals, where the sampler makes any."""
    groups: int = eqx.field(static=True, default=0)
    """Number of independent groups of samples (the chains), from which errors are told; 0 where there is no error."""

    @property
    def restart(self) -> PyTree:
        """The last state of each chain, not all samples."""
        return self.last

    def expect(self, fn):
        """The mean of `fn` over the samples."""
        values = jax.vmap(fn)(self.state)
        weights = self.weights
        if weights is None:
            return jax.tree.map(lambda v: jnp.mean(v, axis=0), values)
        kind = jnp.result_type(weights.dtype)

        def weigh(v):
            v = v.astype(jnp.promote_types(v.dtype, kind))
            return jnp.tensordot(weights.astype(v.dtype), v, axes=1)

        return jax.tree.map(weigh, values)

    def standard_error(self, fn: Callable[[PyTree], T]) -> T:
        """The standard error of `expect(fn)`, from the spread of the means of independent groups of samples.

        Zero where all configurations were listed.

        Raises:
            ValueError: if the samples form a single group.
        """
        if self.weights is not None:
            return jax.tree.map(jnp.zeros_like, self.expect(fn))
        if self.groups < 2:
            raise ValueError(
                "A standard error needs at least two groups of samples; this ensemble has one. Run the sampler with "
                "`chains` of 2 or more."
            )
        values = jax.vmap(fn)(self.state)
        return jax.tree.map(lambda v: _error_of_mean(v, self.groups), values)

    def effective_samples(self, fn: Callable[[PyTree], Inexact[Array, "..."]]) -> Inexact[Array, "..."]:
        """How many independent samples would give the same standard error of `expect(fn)`."""
        values = jax.vmap(fn)(self.state)
        return jnp.var(values, axis=0) / self.standard_error(fn) ** 2

    def group(self, index: int | Int[Array, ""]) -> "Ensemble":
        """The samples of one independent group, as an ensemble."""

        def pick(leaf):
            return leaf.reshape(self.groups, -1, *leaf.shape[1:])[index]

        return Ensemble(jax.tree.map(pick, self.state), self.last, self.result, self.residual, self.steps, groups=1)

    def same_samples(self, other: "Ensemble") -> Bool[Array, ""]:
        """Whether two ensembles hold the same samples with the same weights, to rounding: nothing responded."""
        ours, theirs = ((e.state, e.weights) for e in (self, other))

        def same(a, b):
            tolerance = 16 * float(jnp.finfo(a.dtype).eps)  # a few roundings of numbers near 1
            return jnp.all(jnp.abs(a - b) <= tolerance * (1 + jnp.abs(a)))

        return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(same, ours, theirs))))


def _error_of_mean(values, groups):
    means = jnp.mean(values.reshape(groups, -1, *values.shape[1:]), axis=1)
    return jnp.std(means, axis=0, ddof=1) / float(groups) ** 0.5
