r"""Checking a user's own system: does it settle, is its coupling reciprocal, is the estimated gradient the true one.

A force that derives from an energy has a symmetric Jacobian, $u^\top J v = v^\top J u$ with
$J = \partial^2 E/\partial s^2$. Automatic differentiation of an energy gives just that, unless custom derivatives
break it; so it is measured, by finite differences of the state gradient along random directions.
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eqprop.cost import Cost, SquaredError
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.estimate import Estimator, check_batch, free_phase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.base import Solver, state_gradient
from eqprop.settle.descent import BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.newton import Newton
from eqprop.system import System, project

__all__ = ["Checked", "SolverTrial", "check_system"]

ASYMMETRY = 1e-5
"""Largest relative asymmetry taken for rounding: central differences in float64 are good to about 1e-8."""
WANTED_ERROR = 1e-3
"""The largest beta whose relative error is below this is recommended: it is the least sensitive to noise."""


@dataclasses.dataclass(frozen=True)
class SolverTrial:
    """How one solver did on the free phases."""

    name: str
    settled: float
    """Fraction of the examples."""
    steps: float
    """Mean over the examples."""
    seconds: float
    """For the whole batch, compilation apart."""
    distance: float
    """Largest distance to the first working solver's states, relative to their size: another rest state if large."""
    problem: str
    """Why it could not be tried, else empty."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a check found."""

    trials: tuple[SolverTrial, ...]
    solver: str | None
    """The fastest that settled all examples at the same states."""
    asymmetry: float
    """Of the coupling: 0 where it is reciprocal."""
    gradient_error: float
    """Of the energy's derivative in the state, against finite differences of the energy."""
    certificate: Certificate | None
    """Of the estimator; None where nothing settled."""
    beta: float | None
    """Nudging strength to take."""
    problems: tuple[str, ...]
    """What is wrong, with remedies."""
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether learning with this system, solver and estimator follows the true gradient."""
        return not self.problems


def check_system(
    system: System,
    cost: Cost | None = None,
    inputs: PyTree = None,
    targets: PyTree = None,
    propagate: Estimator | None = None,
) -> Checked:
    """Check a system on a few examples; in float64.

    Args:
        system: The system.
        cost: What is wanted of its output; squared error by default.
        inputs: Leading axis the example. A system that uses no inputs needs none.
        targets: Leading axis the example; the outputs at rest, a little moved, by default.
        propagate: The estimator to certify; symmetric nudging at 0.01 with the best solver by default.

    Raises:
        ValueError: if the energy is no scalar, inputs are needed but not given, or shapes do not fit.
    """
    cost = SquaredError() if cost is None else cost
    inputs = inputs_or_none_needed(system, inputs)
    inputs = jax.tree.map(jnp.asarray, inputs)
    if targets is not None:
        targets = jax.tree.map(jnp.asarray, targets)
        check_batch(system, inputs, targets)
    first = jax.tree.map(lambda leaf: leaf[0], inputs)
    problems, warnings = sanity(system, first)
    trials, states, solvers = _try_solvers(system, inputs, propagate)
    working = [trial for trial in trials if trial.settled == 1 and trial.distance < 1e-3]
    best = min(working, key=lambda trial: trial.seconds).name if working else None
    asymmetry = gradient_error = 0.0
    certificate = beta = None
    if best is None:
        problems.append(
            "No solver settles all examples. The energy may be unbounded below (add a restoring term such as half the "
            "square of the state), or flat in some direction (pin it); see the table for what each solver met."
        )
    else:
        asymmetry, gradient_error = _derivatives(system, states[best], inputs)
        targets = moved_outputs(jax.vmap(system.output)(states[best])) if targets is None else targets
        # Not to be certified at the tolerance of training: settle to the floor.
        propagate = EquilibriumPropagation(symmetric(0.01), solvers[best]) if propagate is None else propagate
        certificate = certify(system, cost, inputs, targets, propagate, key=jax.random.key(0))
        problems += certificate.reasons
        beta = _recommended(certificate)
    if gradient_error > 1e-4:
        problems.append(
            f"The state gradient is not the derivative of the energy (relative difference {gradient_error:.1e}): a "
            "custom derivative is wrong, or the energy has a kink or step at the rest state."
        )
    if asymmetry > ASYMMETRY:
        problems.append(
            f"The coupling is not reciprocal: the Jacobian of the state gradient is asymmetric by {asymmetry:.1e}. A "
            "custom derivative in `energy` does not derive from a scalar; remove it."
        )
    return Checked(tuple(trials), best, asymmetry, gradient_error, certificate, beta, tuple(problems), tuple(warnings))


def inputs_or_none_needed(system: System, inputs: PyTree) -> PyTree:
    """The inputs; for a system that uses none, two examples of nothing.

    Raises:
        ValueError: if there are none, and the system needs some.
    """
    if inputs is not None:
        return inputs
    failure = None
    for nothing in (jnp.zeros(2), jnp.zeros((2, 0))):
        try:
            system.energy(system.initial_state(nothing[0]), nothing[0])
        except Exception as error:
            failure = failure or error
        else:
            return nothing
    raise ValueError(
        f"`{type(system).__name__}` needs inputs to be checked ({type(failure).__name__}: {failure}). Point at a "
        "function that returns (system, cost, inputs, targets), inputs and targets with one example per row."
    ) from failure


def sanity(system: System, inputs: PyTree) -> tuple[list[str], list[str]]:
    """Problems and warnings that one example shows before anything is settled."""
    problems, warnings = [], []
    state = system.initial_state(inputs)
    # A little beside the start, where much of an energy may vanish.
    beside = project(system, jax.tree.map(lambda leaf: leaf + jnp.asarray(0.1, leaf.dtype), state))
    first, second = (np.asarray(system.energy(beside, inputs)) for _ in range(2))
    if first.shape != ():
        raise ValueError(
            f"`{type(system).__name__}.energy` must return a scalar for one example; got shape {first.shape}. Sum over "
            "the units."
        )
    if not np.array_equal(first, second, equal_nan=True):
        problems.append(
            f"The energy is random: {first} and then {second} for the same state and inputs. Make the randomness part "
            "of the inputs, or take a sampling solver."
        )
    if not np.isfinite(first):
        problems.append(f"The energy near the initial state is {first}; start elsewhere (`initial_state`).")
    if not jax.tree.leaves(eqx.filter(system, eqx.is_inexact_array)):
        problems.append("The system has no parameters: only arrays of floating point are trained, not Python numbers.")
    inside = project(system, state)
    if not bool(eqx.tree_equal(inside, state, rtol=1e-6, atol=1e-9)):
        warnings.append("`initial_state` lies outside `bounds`; it is moved onto them before settling.")
    return problems, warnings


def _candidates(system, propagate):
    found: dict[str, Solver] = {}
    if propagate is not None:
        found["the estimator's own"] = propagate.solver
        if propagate.solver.host:
            return found
    if system.blocks() is not None:
        found["BlockDescent"] = BlockDescent(rtol=1e-10, atol=1e-12, max_steps=5_000)
    found["Newton"] = Newton(rtol=1e-10, atol=1e-12)
    found["FixedPoint"] = FixedPoint(rtol=1e-10, atol=1e-12, max_steps=20_000)
    for size in (0.5, 0.05, 0.005):
        found[f"GradientFlow, step {size}"] = GradientFlow(step_size=size, rtol=1e-10, atol=1e-12, max_steps=20_000)
    return found


def _try_solvers(system, inputs, propagate):
    trials, states, reference = [], {}, None
    solvers = _candidates(system, propagate)
    for name, solver in solvers.items():
        if name.startswith("GradientFlow") and any(
            t.name.startswith("GradientFlow") and t.settled == 1 for t in trials
        ):
            continue
        run = free_phase if solver.host else _free_phase_compiled
        keys = jax.random.split(jax.random.key(0), jax.tree.leaves(inputs)[0].shape[0])
        try:
            jax.block_until_ready(run(system, solver, inputs, None, keys))
            began = time.perf_counter()
            free = jax.block_until_ready(run(system, solver, inputs, None, keys))
        except (ValueError, TypeError, NotImplementedError) as error:
            trials.append(SolverTrial(name, 0.0, 0.0, 0.0, float("inf"), str(error).split("\n")[0]))
            continue
        seconds = time.perf_counter() - began
        settled = float(np.mean(np.asarray(free.settled)))
        flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(free.restart)])
        if settled == 1 and reference is None:
            reference = flat
        distance = float("inf")
        if settled == 1:
            distance = float(np.linalg.norm(flat - reference) / max(np.linalg.norm(reference), 1e-12))
        states[name] = free.restart
        trials.append(SolverTrial(name, settled, float(np.mean(np.asarray(free.steps))), seconds, distance, ""))
    return trials, states, solvers


_free_phase_compiled = eqx.filter_jit(free_phase)


def _derivatives(system, states, inputs, probes: int = 8) -> tuple[float, float]:
    """Asymmetry of the Jacobian of the state gradient, and error of the state gradient, at the first rest state."""
    state, inputs = jax.tree.map(lambda leaf: leaf[0], (states, inputs))
    flat, unravel = jax.flatten_util.ravel_pytree(state)
    if jnp.iscomplexobj(flat) or flat.size < 2:
        return 0.0, 0.0

    def slope(s):
        return np.asarray(jax.flatten_util.ravel_pytree(state_gradient(system, unravel(s), inputs))[0])

    def energy(s):
        return float(system.energy(unravel(s), inputs))

    size = max(float(jnp.sqrt(jnp.mean(flat**2))), 1e-3)
    # The best step of central differences is the cube root of the rounding error.
    step = 6e-6 * size
    flat = _off_walls(system, state, flat, 10 * step)
    draws = np.random.default_rng(0).standard_normal((probes, 2, flat.size))
    asymmetry, error, scale, slope_scale = 0.0, 0.0, 0.0, 0.0
    for u, v in draws:
        along_u, along_v = ((slope(flat + step * d) - slope(flat - step * d)) / (2 * step) for d in (u, v))
        asymmetry += (v @ along_u - u @ along_v) ** 2
        scale += (v @ along_u) ** 2 + (u @ along_v) ** 2 + (u @ along_u) ** 2
        # At a rest state the gradient vanishes: compare a little away from it.
        away = flat + 1e-2 * size * u
        measured = (energy(away + step * v) - energy(away - step * v)) / (2 * step)
        error += (measured - slope(away) @ v) ** 2
        slope_scale += measured**2
    return float(np.sqrt(asymmetry / max(scale, 1e-300))), float(np.sqrt(error / max(slope_scale, 1e-300)))


def _off_walls(system, state, flat, distance):
    """The state moved a little off its bounds, where differences would be one-sided."""
    bounds = system.bounds()
    if bounds is None:
        return np.asarray(flat)
    lower, upper = (
        np.asarray(
            jax.flatten_util.ravel_pytree(
                jax.tree.map(lambda s, b: jnp.broadcast_to(b, s.shape).astype(s.dtype), state, side)
            )[0]
        )
        for side in bounds
    )
    room = np.minimum(distance, np.where(np.isfinite(upper - lower), 0.25 * (upper - lower), distance))
    return np.clip(np.asarray(flat), lower + room, upper - room)


def moved_outputs(outputs: PyTree) -> PyTree:
    """Targets near the outputs at rest: one tenth of their size away, in a fixed random direction."""
    leaves, tree = jax.tree.flatten(outputs)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        o + 0.1 * (jnp.std(o) + 1) * jax.random.normal(k, o.shape, o.dtype) for o, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def _recommended(certificate: Certificate) -> float | None:
    if certificate.beta is None:
        return None
    pairs = sorted(zip(certificate.betas, certificate.errors, strict=True), reverse=True)
    good = [factor for factor, error in pairs if error <= WANTED_ERROR]
    factor = good[0] if good else min(pairs, key=lambda pair: pair[1])[0]
    return certificate.beta * factor
