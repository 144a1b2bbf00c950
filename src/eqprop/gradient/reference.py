r"""References: the truth that estimators are held against, with the same call.

* `ImplicitDifferentiation`: $\nabla_\theta L = -\partial_\theta\partial_s E\; H^{-1}\,\partial_s C + \partial_\theta C$
  with $H = \partial^2 E/\partial s^2$ on the units that do not rest on a bound.
* `FiniteDifference`: central differences of the cost in each parameter, on the branch of the free state.

A third, where a solver's steps come to rest, is `UnrolledDifferentiation`, or `BackpropagationThroughTime`.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 2.2.
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Inexact, PyTree

from eqprop.cost import Cost
from eqprop.equilibrium import RESULT
from eqprop.gradient.estimate import (
    Estimate,
    Estimator,
    batch_size,
    free_phase,
    mean_gradient,
    value_and_outputs,
)
from eqprop.settle.base import Solver, rms, state_gradient
from eqprop.system import System

__all__ = ["FiniteDifference", "ImplicitDifferentiation", "response"]

_ITERATIVE = (lx.CG, lx.GMRES, lx.BiCGStab, lx.Normal)


class ImplicitDifferentiation(Estimator):
    """The exact gradient at the free equilibrium, by the implicit function theorem.

    Args:
        solver: Settles the free phase; its accuracy is the gradient's.
        linear_solver: Solves with the Hessian: dense LU by default, or `lineax.CG`, `lineax.GMRES` for states of
            many thousand units (matrix-free).
    """

    solver: Solver
    linear_solver: lx.AbstractLinearSolver = eqx.field(default_factory=lambda: lx.AutoLinearSolver(well_posed=True))

    def estimate(self, system, cost, inputs, targets, start, key):
        return _implicit(self, system, cost, inputs, targets, start, key)


@eqx.filter_jit
def _implicit(reference, system, cost, inputs, targets, start, key):
    keys = None if key is None else jax.random.split(key, batch_size(inputs))
    free = free_phase(system, reference.solver, inputs, start, keys)

    def adjoint(example):
        x, y, state = example
        return response(system, cost, x, y, state, reference.linear_solver, transpose=True)

    # One example after the other: a Hessian for each of them at once may not fit in memory.
    adjoints = jax.lax.map(adjoint, (inputs, targets, free.state))
    finite = jax.vmap(lambda v: jnp.all(jnp.isfinite(jax.flatten_util.ravel_pytree(v)[0])))(adjoints)
    result = _where(free.settled & ~finite, RESULT.singular, free.result)
    good = free.settled & finite

    def derivative(system, x, phases):
        y, state, v = phases
        along = jax.jvp(lambda s: system.energy(s, x), (state,), (v,))[1]
        return along + cost(system.output(state), y)

    gradient = mean_gradient(derivative, system, inputs, (targets, free.state, adjoints), good)
    value, outputs = value_and_outputs(system, cost, free, targets, good)
    return Estimate(value, gradient, outputs, result, free, None)


def response(
    system: System,
    cost: Cost,
    inputs: PyTree,
    targets: PyTree,
    state: PyTree,
    linear_solver: lx.AbstractLinearSolver | None = None,
    *,
    transpose: bool = False,
) -> PyTree:
    r"""$ds^\beta/d\beta$ at $\beta = 0$, which is $-H^{-1}\partial_s C$; zero for units that rest on a bound.

    With `transpose`, the adjoint $-H^{-\top}\partial_s C$ that a gradient needs. The two differ only for one-way
    fields, whose "Hessian" (the slope of what the solvers see as the gradient) is not symmetric.
    """
    linear_solver = lx.AutoLinearSolver(well_posed=True) if linear_solver is None else linear_solver
    flat, unravel = jax.flatten_util.ravel_pytree(state)
    moving = _free_units(system, state)

    def slope(s):
        gradient = jax.flatten_util.ravel_pytree(state_gradient(system, unravel(s), inputs))[0]
        return gradient if moving is None else jnp.where(moving, gradient, s)

    wanted = jax.grad(lambda s: cost(system.output(unravel(s)), targets))(flat)
    if moving is not None:
        wanted = jnp.where(moving, wanted, 0)
    if isinstance(linear_solver, _ITERATIVE):

        def matvec(v):
            inner = v if moving is None else jnp.where(moving, v, 0)
            image = jax.jvp(slope, (flat,), (inner,))[1]
            return image if moving is None else jnp.where(moving, image, v)

        tags = lx.positive_semidefinite_tag if isinstance(linear_solver, lx.CG) else ()
        operator = lx.FunctionLinearOperator(matvec, jax.eval_shape(lambda: flat), tags)
        operator = operator.T if transpose and not tags else operator
    else:
        hessian = jax.jacfwd(slope)(flat)
        if moving is not None:
            hessian = jnp.where(moving[:, None] & moving[None, :], hessian, jnp.eye(flat.size, dtype=flat.dtype))
        operator = lx.MatrixLinearOperator(hessian.T if transpose else hessian)
    return unravel(lx.linear_solve(operator, -wanted, linear_solver, throw=False).value)


def _free_units(system, state):
    bounds = system.bounds()
    if bounds is None:
        return None
    inside = jax.tree.map(lambda s, low, high: jnp.broadcast_to((s > low) & (s < high), s.shape), state, *bounds)
    return jax.flatten_util.ravel_pytree(inside)[0]


class FiniteDifference(Estimator):
    """Central differences of the mean cost in each parameter; re-settled from the free state, so on its branch.

    Two settlings per parameter and example: for small systems. Examples whose state does not respond in proportion to
    the step (another branch, or a kink within it) end as `RESULT.branch_lost`.
    """

    solver: Solver
    step: float = 1e-4

    def estimate(self, system, cost, inputs, targets, start, key):
        return _finite_difference(self, system, cost, inputs, targets, start, key)


@eqx.filter_jit
def _finite_difference(reference, system, cost, inputs, targets, start, key):
    keys = None if key is None else jax.random.split(key, batch_size(inputs))
    free = free_phase(system, reference.solver, inputs, start, keys)
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)
    h = reference.step

    def shifted(direction, sign):
        moved = eqx.combine(unravel(flat + sign * h * direction), rest)
        phase = free_phase(moved, reference.solver, inputs, free.restart, keys)
        costs = jax.vmap(lambda eq, y: eq.expect(lambda s: cost(moved.output(s), y)))(phase, targets)
        return phase, costs

    def one(index):
        direction = jax.nn.one_hot(index, flat.size, dtype=flat.dtype)
        (up, high), (down, low) = shifted(direction, 1.0), shifted(direction, -1.0)
        proportional = jax.vmap(_proportional)(free.state, up.state, down.state, free.residual)
        return (high - low) / (2 * h), up.settled & down.settled, proportional

    slopes, settled, proportional = jax.lax.map(one, jnp.arange(flat.size))
    result = _where(free.settled & ~jnp.all(proportional, 0), RESULT.branch_lost, free.result)
    result = _where(free.settled & ~jnp.all(settled, 0), RESULT.max_steps_reached, result)
    good: Bool[Array, " batch"] = result == RESULT.settled
    slopes: Inexact[Array, "parameter batch"] = jnp.where(good, slopes, 0)
    gradient = unravel(jnp.sum(slopes, 1) / jnp.maximum(jnp.sum(good), 1).astype(slopes.dtype))
    value, outputs = value_and_outputs(system, cost, free, targets, good)
    return Estimate(value, gradient, outputs, result, free, None)


def _proportional(state, up, down, residual):
    """Whether the response to ± a step is odd in the step, but for curvature and the accuracy of settling."""
    odd = rms(jax.tree.map(jnp.subtract, up, down))
    even = rms(jax.tree.map(lambda u, d, s: u + d - 2 * s, up, down, state))
    return even <= 0.1 * odd + 10 * residual + 1e-6 * rms(state)


_where = jax.vmap(RESULT.where, in_axes=(0, None, 0))
