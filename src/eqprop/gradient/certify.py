r"""Certificates: an estimator held against the truth, on the system and the data that it is to be used on.

A certificate asks, in this order: did the free phase reach a stationary point (found anew by Newton's method); did the
nudged phases settle, on the free state's branch; does the gradient agree with implicit differentiation, parameter by
parameter; and does its error fall with the nudging strength as the stencil's order says. An error at the rounding floor
is exact, and no order is then asked for.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, sections 2.2 and 2.3.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from eqprop.cost import Cost
from eqprop.equilibrium import Equilibrium
from eqprop.gradient.estimate import Estimate, Estimator, check_batch
from eqprop.gradient.one_phase import OnePhase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import ImplicitDifferentiation, response
from eqprop.settle.base import IterativeSolver, rms
from eqprop.settle.eigen import LevelSolver
from eqprop.settle.newton import Newton
from eqprop.settle.path import PathNewton
from eqprop.system import System

__all__ = ["Certificate", "certify"]

Propagate = Callable[..., Estimate]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The verdict on an estimator, with the figures it rests on."""

    cosine: float
    """Cosine between estimate and truth over all parameters."""
    relative_error: float
    """Norm of the difference over the norm of the truth."""
    order: float | None
    """Fitted order of the error in beta; None where the error is exact, or does not follow a power."""
    declared_order: int | None
    """The order that the stencil declares; None where there is no stencil."""
    exact: bool
    """Whether the error is at the rounding floor."""
    floor: float
    """Relative error that rounding alone leaves at `beta`."""
    parameters: dict[str, tuple[float, float]]
    """Cosine and relative error of each parameter, by its path in the system."""
    betas: tuple[float, ...]
    """Factors by which beta was scaled."""
    errors: tuple[float, ...]
    """Relative error at each of them."""
    cosines: tuple[float, ...]
    """Cosine at each of them."""
    beta: float | None
    """The estimator's own nudging strength."""
    drift: float
    """How far Newton's method moves the free states, relative to their size: 0 at a true equilibrium."""
    off_branch: float
    """Fraction of nudged phases that do not lie where the linear response of the free state puts them."""
    unsettled: float
    """Fraction of examples that did not settle."""
    tolerance: float
    """Largest relative error accepted."""
    reasons: tuple[str, ...]
    """Why the certificate is refused, with the remedy; empty where it is given."""

    @property
    def ok(self) -> bool:
        """Whether the gradient is the true one, to `tolerance`."""
        return not self.reasons

    def __str__(self) -> str:
        error = "exact (at the rounding floor)" if self.exact else f"relative error {self.relative_error:.2e}"
        declared = "" if self.declared_order is None else f" (declared {self.declared_order})"
        order = "" if self.order is None else f", order {self.order:.2f} in beta{declared}"
        lines = [
            f"{'CERTIFIED' if self.ok else 'REFUSED'}: cosine {self.cosine:.8f}, {error}{order}",
            *(f"  {name:<24} cosine {c:.8f}  relative error {e:.2e}" for name, (c, e) in self.parameters.items()),
            *(f"  - {reason}" for reason in self.reasons),
        ]
        return "\n".join(lines)


def certify(
    system: System,
    cost: Cost,
    inputs: PyTree,
    targets: PyTree,
    propagate: Propagate,
    *,
    truth: Estimator | None = None,
    tolerance: float = 0.05,
    key: PRNGKeyArray | None = None,
) -> Certificate:
    """Hold an estimator against the truth. Use float64: in float32 the floor is high and the verdict soft.

    Args:
        system: The system.
        cost: The cost.
        inputs: A batch of inputs; a handful of examples will do.
        targets: Their targets.
        propagate: The estimator, or any function of the same call that returns an `Estimate`.
        truth: What counts as true: `ImplicitDifferentiation` by Newton's method, started at the estimate's free
            states. Ensembles, paths and other states that are not points need their own.
        tolerance: Largest relative error accepted.
        key: Random key, for random physics or rules.

    Returns:
        The certificate; `print` it.

    Raises:
        ValueError: if the batch does not fit the system.
    """
    precise = Newton(rtol=1e-12, atol=1e-13)
    inputs, targets = jax.tree.map(jnp.asarray, (inputs, targets))
    rule = propagate if isinstance(propagate, EquilibriumPropagation) else None
    if rule is not None:
        check_batch(system, inputs, targets)
        # As the caller has it, number by number; in this form the sweep over beta below is the same compiled program.
        propagate, start = _adjustable(rule), _start(rule, system, inputs)
        estimate = propagate(system, cost, inputs, targets, start=start, key=key)
    else:
        estimate = propagate(system, cost, inputs, targets, key=key)
    truth = ImplicitDifferentiation(precise) if truth is None else truth
    reference = truth(system, cost, inputs, targets, start=estimate.free.restart, key=key)
    # Only examples on which both stand are compared: estimates are means over their own settled examples.
    both = np.asarray(estimate.settled & reference.settled)
    unsettled = 1 - float(np.mean(np.asarray(estimate.settled)))
    drift = _drift(estimate, reference)

    if both.any() and not both.all():
        inputs, targets = jax.tree.map(lambda leaf: leaf[both], (inputs, targets))
        estimate = propagate(system, cost, inputs, targets, key=key)
        reference = truth(system, cost, inputs, targets, start=estimate.free.restart, key=key)
    cosine, error = _compare(estimate, reference)
    betas, cosines, errors = (1.0,), (cosine,), (error,)
    off_branch = 0.0
    declared = beta = None
    if rule is not None:
        declared = rule.stencil.order
        stencil = rule.stencil.draw(_any_key(key))
        beta = float(np.max(np.abs(np.asarray(stencil.nodes))))
        linear_solver = truth.linear_solver if isinstance(truth, ImplicitDifferentiation) else None
        off_branch = _off_branch(stencil, system, cost, inputs, targets, estimate, linear_solver)
    elif isinstance(propagate, OnePhase):
        beta = float(jnp.abs(propagate.beta))
    if isinstance(propagate, EquilibriumPropagation | OnePhase):
        betas, cosines, errors = _sweep(propagate, system, cost, inputs, targets, reference, key)
    floor = _floor(reference, beta)
    exact = error <= floor
    order = None if exact else _order(betas, errors, floor)
    reasons = _reasons(unsettled, drift, off_branch, cosine, error, tolerance, betas, errors, beta, both)
    return Certificate(
        cosine=cosine,
        relative_error=error,
        order=order,
        declared_order=declared,
        exact=exact,
        floor=floor,
        parameters=_by_parameter(estimate.gradient, reference.gradient),
        betas=betas,
        errors=errors,
        cosines=cosines,
        beta=beta,
        drift=drift,
        off_branch=off_branch,
        unsettled=unsettled,
        tolerance=tolerance,
        reasons=reasons,
    )


def _any_key(key):
    return jax.random.key(0) if key is None else key


def _flat(tree):
    # In NumPy: each operation of JAX's outside a compiled function is a program of its own.
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return np.concatenate([np.zeros(0, np.float32), *(np.ravel(np.asarray(leaf)) for leaf in leaves)])


def _pair(a, b):
    """Cosine and relative error of two vectors."""
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    if norm_b == 0:
        return (1.0, 0.0) if norm_a == 0 else (0.0, float("inf"))
    if norm_a == 0 or not np.isfinite(norm_a):
        return 0.0, 1.0 if norm_a == 0 else float("inf")
    return float(a @ b / norm_a / norm_b), float(np.linalg.norm(a - b) / norm_b)


def _compare(estimate, reference):
    return _pair(_flat(estimate.gradient), _flat(reference.gradient))


def _by_parameter(gradient, reference):
    is_array = eqx.is_inexact_array
    found = jax.tree_util.tree_leaves_with_path(eqx.filter(gradient, is_array))
    wanted = jax.tree.leaves(eqx.filter(reference, is_array))
    return {
        jax.tree_util.keystr(path).lstrip("."): _pair(np.ravel(np.asarray(g)), np.ravel(np.asarray(w)))
        for (path, g), w in zip(found, wanted, strict=True)
    }


def _drift(estimate, reference):
    """Distance between the estimate's free states and the stationary points next to them, relative to their size."""
    if not isinstance(estimate.free, Equilibrium):
        return 0.0
    settled = np.asarray(estimate.settled)
    if not settled.any():
        return float("inf")
    ours, theirs = (
        np.concatenate([np.ravel(np.asarray(leaf)[settled]) for leaf in jax.tree.leaves(tree.free.state)])
        for tree in (estimate, reference)
    )
    moved, size = (float(np.sqrt(np.mean(np.abs(v) ** 2))) for v in (ours - theirs, theirs))
    # A state that is all zeros has no size of its own: measure against 1 then.
    return moved / max(size, 1e-3) if np.isfinite(moved) else float("inf")


def _off_branch(stencil, system, cost, inputs, targets, estimate, linear_solver):
    """Fraction of nudged phases further from the linear response than half of it."""
    if not isinstance(estimate.nudged, Equilibrium):
        return 0.0
    nodes = stencil.nodes[1:] if stencil.starts_free else stencil.nodes
    return float(_strays(nodes, system, cost, inputs, targets, estimate.free, estimate.nudged, linear_solver))


@eqx.filter_jit
def _strays(nodes, system, cost, inputs, targets, free, nudged, linear_solver):
    def one(example):
        x, y, state = example
        return response(system, cost, x, y, state, linear_solver)

    slope = jax.lax.map(one, (inputs, targets, free.state))

    def strays(beta, phase):
        predicted = jax.tree.map(lambda v: beta * v, slope)
        actual = jax.tree.map(jnp.subtract, phase.state, free.state)
        gap = jax.vmap(lambda a, p: rms(jax.tree.map(jnp.subtract, a, p)))(actual, predicted)
        size, noise = jax.vmap(rms)(predicted), free.residual + phase.residual
        return gap > 0.5 * size + 10 * noise

    with jax.numpy_dtype_promotion("standard"):  # complex nodes meet real responses
        lost = [strays(nodes[k], jax.tree.map(lambda leaf, k=k: leaf[k], nudged)) for k in range(nodes.shape[0])]
    return jnp.mean(jnp.stack(lost).astype(float))


def _sweep(propagate, system, cost, inputs, targets, reference, key):
    """Cosines and errors of the tightly settled estimator over beta."""
    tight = _adjustable(propagate, tight=True)
    factors, cosines, errors = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125), [], []
    for factor in factors:
        estimate = tight.scaled(factor)(system, cost, inputs, targets, start=reference.free.restart, key=key)
        cosine, error = _compare(estimate, reference)
        cosines.append(cosine)
        errors.append(error if bool(np.asarray(estimate.settled).all()) else float("nan"))
    return factors, tuple(cosines), tuple(errors)


def _start(rule, system, inputs):
    """Where free phases begin, spelled out; None where the solver decides."""
    if rule.solver.host or rule.solver.stochastic:
        return None
    return jax.vmap(system.initial_state)(inputs)


def _adjustable(propagate, *, tight=False):
    """The same estimator with its tolerances as arrays, which may change without another compilation.

    `tight` settles to near rounding, so that what is left is the error of the stencil.
    """

    def adjusted(solver):
        if solver is None or not all(hasattr(solver, name) for name in ("rtol", "atol", "max_steps")):
            return solver
        rtol, atol, steps = (1e-12, 1e-14, 20) if tight else (solver.rtol, solver.atol, 1)
        solver = eqx.tree_at(lambda s: (s.rtol, s.atol), solver, (jnp.asarray(rtol), jnp.asarray(atol)))
        if isinstance(solver, IterativeSolver | LevelSolver | PathNewton):
            return eqx.tree_at(lambda s: s.max_steps, solver, jnp.asarray(steps * solver.max_steps))
        return eqx.tree_at(lambda s: s.max_steps, solver, steps * solver.max_steps)

    def solvers(estimator):
        both = isinstance(estimator, EquilibriumPropagation)
        return [estimator.solver, estimator.nudged_solver] if both else [estimator.solver]

    # In place, so that a subclass keeps its ways.
    return eqx.tree_at(solvers, propagate, [adjusted(s) for s in solvers(propagate)], is_leaf=lambda node: node is None)


def _floor(reference, beta):
    """Relative error that rounding alone leaves in a difference of states divided by beta."""
    eps = float(np.finfo(_flat(reference.gradient).dtype).eps)
    return 1e4 * eps / (1.0 if beta is None else min(beta, 1.0))


def _order(betas, errors, floor):
    """Slope of log error against log beta where the error is above the floor and small; None if that is no line."""
    points = [(b, e) for b, e in zip(betas, errors, strict=True) if np.isfinite(e) and 10 * floor < e < 0.1]
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points[-4:])).T  # the smallest of the betas, which come first to last from large to small
    slope, offset = np.polyfit(x, y, 1)
    # Kinks (an active set that changes with beta) bend the line: no order is claimed then.
    return float(slope) if np.max(np.abs(slope * x + offset - y)) < 0.3 else None


def _reasons(unsettled, drift, off_branch, cosine, error, tolerance, betas, errors, beta, both):
    reasons = []
    if unsettled > 0:
        reasons.append(
            f"{unsettled:.0%} of the examples did not settle. Raise the solver's `max_steps`, or take a solver that "
            "suits the system (`Newton` for small ones, `BlockDescent` where blocks are declared)."
        )
    if not both.any():
        return tuple(reasons) or ("No stationary point was found near the free states: is the energy bounded below?",)
    if not drift <= 1e-2:
        reasons.append(
            f"The free states are no equilibria: Newton's method moves them by {drift:.1e} of their size. Tighten the "
            "solver's `rtol` and `atol`; a pass that does not settle is not a free phase."
        )
    if not error <= tolerance:
        if cosine < -0.5:
            reasons.append("The gradient points the wrong way: the sign of the nudge, or of the contrast, is flipped.")
        elif off_branch > 0.05:
            reasons.append(
                f"{off_branch:.0%} of the nudged phases left the branch of the free state, or crossed a kink. Lower "
                "beta and start nudged phases at the free state."
            )
        else:
            reasons.append(
                f"The gradient is wrong: cosine {cosine:.4f}, relative error {error:.2e}, above {tolerance:g}."
                + _advice(betas, errors, beta, tolerance)
            )
    return tuple(reasons)


def _advice(betas, errors, beta, tolerance):
    if beta is None:
        return ""
    good = [b * beta for b, e in zip(betas, errors, strict=True) if e <= tolerance]
    if good:
        return f" With beta = {max(good):.3g} and tightly settled phases it is right."
    return " No beta tried makes it right: check the nudge, and that the system is a scalar's (reciprocal)."
