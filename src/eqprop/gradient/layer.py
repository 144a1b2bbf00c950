r"""A system as a differentiable layer of a larger model.

Forward: settle and read. Backward: the incoming cotangent is the nudging force, scaled to unit norm and multiplied
back, and the gradient in the parameters and the inputs is the contrast of the nudged phases. A system in motion runs
forward and is echoed back, without storing its path.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PRNGKeyArray, PyTree

from eqprop.cost import Cost
from eqprop.equilibrium import RESULT
from eqprop.gradient.echo import EchoPropagation, respond
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.settle.base import settle
from eqprop.system import Forced, System

__all__ = ["Layer"]


class Layer(eqx.Module):
    """`y = layer(x)`, one example; batched by `jax.vmap`, differentiable by `jax.grad` in system and inputs.

    Reverse mode only, and first derivatives only. `propagate.nudge` and `propagate.stencil` say how the backward pass
    is measured; beta is relative to a cotangent of unit norm.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, eqprop as ep
        >>> network = ep.LayeredHopfield([3, 8, 2], key=jax.random.key(0))
        >>> layer = ep.Layer(network, ep.EquilibriumPropagation(ep.symmetric(0.01), ep.BlockDescent()))
        >>> slope = jax.grad(lambda x: layer(x).sum())(jnp.ones(3))
        >>> slope.shape
        (3,)
    """

    system: System
    propagate: EquilibriumPropagation | EchoPropagation

    def __check_init__(self):
        if isinstance(self.propagate, EchoPropagation) and self.propagate.nudge is not Forced:
            raise ValueError(
                "A `Layer` is nudged by its cotangent, a constant force: give its `EchoPropagation` the nudge `Forced`."
            )

    def __call__(self, inputs: PyTree, *, key: PRNGKeyArray | None = None) -> PyTree:
        """The outputs at the equilibrium for `inputs`.

        Raises:
            EquinoxRuntimeError: if a phase does not settle.
        """
        # How the gradient is measured is no part of the model: nothing is differentiated in `propagate`.
        return _respond((self.system, inputs), _constant(self.propagate), key)


class _Pairing(Cost):
    """The linear cost whose slope is the cotangent."""

    def __call__(self, output: PyTree, targets: PyTree) -> Inexact[Array, ""]:
        pairs = zip(jax.tree.leaves(output), jax.tree.leaves(targets), strict=True)
        return jnp.asarray(sum(jnp.sum(o * t) for o, t in pairs))


def _constant(tree):
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


@eqx.filter_custom_vjp
def _respond(differentiable, propagate, key):
    system, inputs = differentiable
    free = settle(system, inputs, propagate.solver, key=key)
    return free.expect(system.output)


@_respond.def_fwd
def _respond_forward(perturbed, differentiable, propagate, key):
    del perturbed
    system, inputs = differentiable
    free = settle(system, inputs, propagate.solver, key=key)
    return free.expect(system.output), free


@_respond.def_bwd
def _respond_backward(free, cotangent, perturbed, differentiable, propagate, key):
    del perturbed
    norm = jnp.sqrt(sum(jnp.sum(c**2) for c in jax.tree.leaves(cotangent)))
    unit = jax.tree.map(lambda c: c / jnp.where(norm > 0, norm, 1), cotangent)
    if isinstance(propagate, EchoPropagation):
        system, inputs = differentiable
        gradient, back = respond(propagate, system, inputs, free.state, unit, key)
        gradient = eqx.error_if(
            gradient, ~back & (norm > 0), "The echo of a `Layer` did not come back. " + RESULT[RESULT.not_retraced]
        )
        return _times(norm, gradient)
    solver = propagate.solver if propagate.nudged_solver is None else propagate.nudged_solver
    stencil = propagate.stencil.draw(key)
    system, inputs = differentiable

    def settle_nudged(beta):
        nudged = propagate.nudge(system, _Pairing(), unit, free, beta.astype(norm.dtype))
        return solver.solve(nudged, inputs, free.restart, free=free, key=key)

    nodes = stencil.nodes[1:] if stencil.starts_free else stencil.nodes
    phases = jax.vmap(settle_nudged)(nodes)
    settled = jnp.all(phases.settled) | (norm == 0)
    phases = eqx.error_if(
        phases, ~settled, "A nudged phase of `Layer` did not settle. " + RESULT[RESULT.max_steps_reached]
    )
    weights = stencil.weights[1:] if stencil.starts_free else stencil.weights

    parameters, rest = eqx.partition(differentiable, eqx.is_inexact_array)

    def contrast(parameters):
        system, inputs = eqx.combine(parameters, rest)

        def energy(beta, phase):
            nudged = propagate.nudge(system, _Pairing(), unit, jax.lax.stop_gradient(free), beta.astype(norm.dtype))
            return phase.expect(lambda s: nudged.energy(s, inputs))

        total = jnp.sum(weights.astype(norm.dtype) * jax.vmap(energy)(nodes, phases))
        if stencil.starts_free:
            total = total + stencil.weights[0].astype(norm.dtype) * energy(stencil.nodes[0], free)
        return total

    return _times(norm, jax.grad(contrast)(parameters))


def _times(norm, gradient):
    return jax.tree.map(lambda g: jnp.where(norm > 0, norm * g, jnp.zeros_like(g)), gradient)
