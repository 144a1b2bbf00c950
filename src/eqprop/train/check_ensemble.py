r"""Checking a system at a finite temperature: is the distribution right, and the gradient, within their noise.

What is random is judged by its own standard errors. Each mean, and each entry of the gradient, is off from its
reference by so many of them, its score; together they are wrong if so large a score comes up by chance less often than
once in a thousand checks. The reference is the exact distribution where all configurations can be listed, else a longer
run of a sampler without step bias. With the exact distribution the bias of a finite beta is told apart from the noise.
"""

import dataclasses
import importlib.util

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import PyTree

from eqprop.cost import Cost, SquaredError
from eqprop.equilibrium import RESULT, Ensemble
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.covariance import BoltzmannCovariance
from eqprop.gradient.estimate import Estimate, Estimator, batch_size, check_batch, free_phase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.base import Solver
from eqprop.settle.sample import MALA, Enumeration, Gibbs, Langevin, Sampler
from eqprop.system import CostNudged, Nudge, System
from eqprop.train.check import inputs_or_none_needed, moved_outputs, sanity

__all__ = ["CheckedEnsemble", "check_ensemble", "is_stochastic"]

CHANCE = 1e-3
"""How often a right system may be called wrong."""
TOLERANCE = 0.05
"""Largest systematic relative error of the gradient that is accepted without a word."""
SURROGATE = 0.95
"""Least cosine at which a strong nudge still passes: it descends a surrogate of the cost."""


@dataclasses.dataclass(frozen=True)
class CheckedEnsemble:
    """What a check of a system at a finite temperature found."""

    sampler: str
    temperature: float
    reference: str
    """What counts as the true distribution."""
    state_score: float
    """Largest score of the mean state and energy; 0 where nothing is sampled."""
    gradient_score: float
    """Largest score of the gradient."""
    scores_expected: float
    """What the larger of them exceeds by chance once in a thousand checks."""
    noise: float
    """Standard error of the gradient, over its size."""
    bias: float
    """Systematic part of the gradient's relative error; what exceeds the noise, where there is no exact reference."""
    step_bias: float | None
    """Relative excess of the virial from the step of `Langevin`."""
    certificate: Certificate | None
    """Of the contrast without noise, where all configurations can be listed."""
    problems: tuple[str, ...]
    """What is wrong, with remedies."""
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether learning with this system and sampler follows the true gradient on average."""
        return not self.problems


def is_stochastic(system: System, propagate: Estimator | None) -> bool:
    """Whether a system is to be checked as a distribution: spins, or an estimator that samples or enumerates."""
    return system.discrete or (propagate is not None and isinstance(propagate.solver, Sampler | Enumeration))


def check_ensemble(
    system: System,
    cost: Cost | None = None,
    inputs: PyTree = None,
    targets: PyTree = None,
    propagate: Estimator | None = None,
) -> CheckedEnsemble:
    """Check a system at a finite temperature on a few examples; in float64.

    Args:
        system: The system.
        cost: What is wanted of its output; squared error by default.
        inputs: Leading axis the example. A system that uses no inputs needs none.
        targets: Leading axis the example; the mean outputs, a little moved, by default.
        propagate: The estimator, with a sampler or `Enumeration`; block Gibbs sampling at temperature 1, nudged
            by ±0.5, by default.

    Raises:
        ValueError: if the energy is no scalar, inputs are needed but not given, shapes do not fit, or a discrete system
            declares neither `conditionals` nor `configurations`.
    """
    cost = SquaredError() if cost is None else cost
    inputs = jax.tree.map(jnp.asarray, inputs_or_none_needed(system, inputs))
    problems, warnings = sanity(system, jax.tree.map(lambda leaf: leaf[0], inputs))
    propagate = _default(system, inputs) if propagate is None else propagate
    solver, nudge = _solver_and_nudge(system, propagate)
    keys = jax.random.split(jax.random.key(0), batch_size(inputs))
    free = _free(system, solver, inputs, keys)
    if targets is None:
        targets = moved_outputs(jax.vmap(lambda phase: phase.expect(system.output))(free))
    targets = jax.tree.map(jnp.asarray, targets)
    check_batch(system, inputs, targets)

    exact, better = _references(system, solver)
    truth = BoltzmannCovariance(better, nudge)(system, cost, inputs, targets, key=jax.random.key(2))
    estimate = propagate(system, cost, inputs, targets, key=jax.random.key(1))
    problems += _failures(estimate)
    dead = 0 if estimate.unmoved is None else int(np.sum(np.asarray(estimate.unmoved & estimate.settled)))
    certificate, expected = None, truth
    if exact is not None and isinstance(propagate, EquilibriumPropagation):
        rule = EquilibriumPropagation(propagate.stencil, exact, nudge)
        certificate = certify(
            system, cost, inputs, targets, rule, truth=BoltzmannCovariance(exact, nudge), key=jax.random.key(1)
        )
        expected = rule(system, cost, inputs, targets, key=jax.random.key(1))

    states, units = _state_scores(system, inputs, free, truth.free)
    gradients, noise, off = _gradient_scores(estimate, expected)
    sampled = [p for p in (free, truth.free) if isinstance(p, Ensemble) and p.weights is None]
    dof = _least([phase.groups for phase in sampled]) - 1
    limit = _limit(dof, states.size + gradients.size)
    state_score, gradient_score = _largest(states), _largest(gradients)
    excess = max(off**2 - noise**2, 0.0) ** 0.5
    bias = excess if certificate is None else certificate.relative_error
    step_bias = None if free.step_bias is None else float(jnp.max(jnp.abs(free.step_bias)))

    if state_score > limit:
        told = f"{units[int(np.argmax(states))]} is off by {state_score:.1f} standard errors"
        wrong = _wrong_distribution(system, solver, inputs, keys, truth.free, limit, told, step_bias)
        (warnings if step_bias is not None and step_bias <= TOLERANCE else problems).append(wrong)
    if dead == estimate.settled.size:
        problems.append(_no_contrast(expected, jax.tree.leaves(free.state)[0].shape[1]))
    elif gradient_score > limit and excess > TOLERANCE:
        problems.append(
            f"The gradient is wrong: entries are off by up to {gradient_score:.1f} standard errors, {excess:.0%} of "
            "its size beyond the noise. Check `energy`, and that nudged phases have time to settle (`burn_in`)."
        )
    if certificate is not None:
        _judge_bias(certificate, problems, warnings)
    if 0 < dead < estimate.settled.size:
        warnings.append(
            f"{dead} of {estimate.settled.size} examples showed the same samples whatever the nudge; raise beta, "
            "`temperature` or `samples` if they are answered wrongly."
        )
    if noise > 1:
        warnings.append(
            f"The noise of one batch's gradient is {noise:.1f} times the gradient: raise `chains`, `samples` or beta, "
            "or learn slowly."
        )
    return CheckedEnsemble(
        sampler=type(solver).__name__,
        temperature=float(solver.temperature),
        reference=_described(better, exact, truth.free),
        state_score=state_score,
        gradient_score=gradient_score,
        scores_expected=limit,
        noise=noise,
        bias=bias,
        step_bias=step_bias,
        certificate=certificate,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _default(system, inputs):
    first = jax.tree.map(lambda leaf: leaf[0], inputs)
    if system.conditionals(first, None) is not None:
        sampler: Solver = Gibbs(1.0, chains=64, burn_in=50, samples=50)
    elif _configurations(system) is not None:
        sampler = Enumeration(1.0)
    else:
        raise ValueError(
            f"`{type(system).__name__}` is discrete but declares neither `conditionals`, for `Gibbs`, nor "
            "`configurations`, for `Enumeration`; it cannot be sampled. Declare one of them."
        )
    return EquilibriumPropagation(symmetric(0.5), sampler, CostNudged)


def _solver_and_nudge(system, propagate) -> tuple[Sampler | Enumeration, Nudge]:
    if not isinstance(propagate, EquilibriumPropagation | BoltzmannCovariance):
        raise ValueError(
            f"`{type(propagate).__name__}` does not estimate the gradient of an expected cost; give "
            "`EquilibriumPropagation` or `BoltzmannCovariance`."
        )
    if not isinstance(propagate.solver, Sampler | Enumeration):
        raise ValueError(
            f"`{type(system).__name__}` takes discrete values, which `{type(propagate.solver).__name__}` cannot "
            "settle; give an estimator with `Gibbs` or `Enumeration`."
        )
    return propagate.solver, propagate.nudge


def _configurations(system):
    """The configurations, or None where there are none or too many to list."""
    try:
        return system.configurations()
    except ValueError:
        return None


def _references(system, solver) -> tuple[Enumeration | None, Solver]:
    """Enumeration where it is possible, and the best there is."""
    if _configurations(system) is not None:
        exact = Enumeration(solver.temperature)
        return exact, exact
    longer = {"burn_in": 10 * solver.burn_in, "samples": 4 * solver.samples, "chains": max(2 * solver.chains, 32)}
    if not isinstance(solver, Langevin):
        return None, dataclasses.replace(solver, standard_error=None, **longer)
    if importlib.util.find_spec("blackjax") is not None:
        return None, MALA(solver.temperature, solver.step_size, thin=solver.thin, **longer)
    return None, Langevin(solver.temperature, solver.step_size / 8, thin=8 * solver.thin, **longer)


def _described(solver, exact, free):
    if exact is not None:
        return f"all {free.weights.shape[-1]} configurations"
    return f"{type(solver).__name__}, {solver.chains} chains of {solver.samples} samples after {solver.burn_in}"


_free_phase_compiled = eqx.filter_jit(free_phase)


def _free(system, solver, inputs, keys) -> Ensemble:
    free = _free_phase_compiled(system, solver, inputs, None, keys)
    assert isinstance(free, Ensemble)
    return free


def _failures(estimate: Estimate) -> list[str]:
    settled = np.asarray(estimate.settled)
    if settled.all():
        return []
    ends = [jax.tree.map(lambda leaf, k=k: leaf[k], estimate.result) for k in np.flatnonzero(~settled)]
    return [f"{np.mean(~settled):.0%} of the examples did not settle: {' '.join(sorted({RESULT[e] for e in ends}))}"]


def _state_scores(system, inputs, free: Ensemble, reference: Ensemble):
    """Scores of the means of each unit and of the energy, for all examples; and what to call them."""
    ours, _, error = _moments(system, inputs, free)
    theirs, variance, more = _moments(system, inputs, reference)
    if free.weights is None:
        # A unit that hardly ever turns may not have turned at all, and its samples show no spread: the error is at
        # least that of as many independent samples of the reference.
        error = np.maximum(error, np.sqrt(variance / jax.tree.leaves(free.state)[0].shape[1]))
    scores = _scores(ours - theirs, np.hypot(error, more))
    units = scores.shape[1] - 1
    names = [f"the mean of {f'unit {k}' if k < units else 'the energy'}" for k in range(units + 1)] * scores.shape[0]
    return scores.ravel(), names


def _moments(system, inputs, ensembles):
    """Mean, variance and standard error of the mean, of each unit and of the energy. [example, unit]"""
    return tuple(np.asarray(part) for part in _moments_compiled(system, inputs, ensembles))


@eqx.filter_jit
def _moments_compiled(system, inputs, ensembles):
    def one(ensemble, x):
        def read(state):
            return jnp.append(jax.flatten_util.ravel_pytree(state)[0], system.energy(state, x))

        mean = ensemble.expect(read)
        return mean, ensemble.expect(lambda s: (read(s) - mean) ** 2), ensemble.standard_error(read)

    return jax.vmap(one)(ensembles, inputs)


def _gradient_scores(estimate: Estimate, expected: Estimate):
    """Scores of the entries of the gradient; its standard error and its error, over its size."""
    ours, theirs = (np.asarray(jax.flatten_util.ravel_pytree(e.gradient)[0]) for e in (estimate, expected))
    first, second = (
        0.0 if e.standard_error is None else np.asarray(jax.flatten_util.ravel_pytree(e.standard_error)[0])
        for e in (estimate, expected)
    )
    error = np.hypot(first, second) * np.ones_like(ours)
    # An entry whose samples happen to show no spread is judged by that of the others.
    error = np.where(error > 0, error, np.sqrt(np.mean(error**2)))
    size = max(float(np.linalg.norm(theirs)), np.finfo(ours.dtype).tiny)
    scores = _scores(ours - theirs, error)
    return scores, float(np.linalg.norm(error)) / size, float(np.linalg.norm(ours - theirs)) / size


def _scores(difference, error):
    difference, error = np.abs(np.asarray(difference)), np.asarray(error)
    # Rounding of sums is no difference; a difference without any spread is certain.
    difference = np.where(difference < 1e-9 * (1 + error), 0, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference > 0, difference / error, 0)


def _least(counts):
    return min(counts, default=np.inf)


def _largest(scores):
    return float(np.max(scores, initial=0.0))


def _limit(dof, count):
    """What the largest of `count` scores exceeds once in a thousand checks."""
    chance = CHANCE / (2 * max(count, 1))
    return float(scipy.stats.norm.isf(chance) if np.isinf(dof) else scipy.stats.t.isf(chance, dof))


def _wrong_distribution(system, solver, inputs, keys, reference, limit, told, step_bias):
    said = f"The samples are not those of exp(-E/T) at T = {float(solver.temperature):g}: {told}."
    if step_bias is not None and step_bias > TOLERANCE:
        return f"{said} The step adds {step_bias:.0%} to the virial: lower `step_size`, or use `MALA`."
    patient = dataclasses.replace(solver, burn_in=20 * (solver.burn_in + 10), hottest=None)
    again = _largest(_state_scores(system, inputs, _free(system, patient, inputs, keys), reference)[0])
    if again <= limit:
        return f"{said} With a burn-in of {patient.burn_in} they are: raise `burn_in`, or anneal with `hottest`."
    if isinstance(solver, Gibbs):
        return (
            f"{said} Nor are they with a burn-in of {patient.burn_in}: `conditionals` does not follow from `energy` "
            "(check signs and factors of 2, that no two units of a block are coupled, and that the nudge is used), or "
            "barriers are too high to cross at this temperature."
        )
    return f"{said} Nor are they with a burn-in of {patient.burn_in}: lower `step_size`."


def _no_contrast(expected: Estimate, samples: int) -> str:
    told = "The nudge moved no sample of any example, so there is no contrast to learn from"
    if isinstance(expected.nudged, Ensemble):
        means = jax.vmap(jax.vmap(lambda phase: phase.expect(lambda s: jax.flatten_util.ravel_pytree(s)[0])))
        legs = np.asarray(means(expected.nudged))
        if samples * np.max(np.ptp(legs, axis=0)) > 20:
            return f"{told}, although it should have moved many: `conditionals` does not use its `nudge`."
    return (
        f"{told}: beta does not reach past the gap at this temperature. Raise beta (it is a margin here) or "
        "`temperature`, or anneal with `hottest`."
    )


def _judge_bias(certificate, problems, warnings):
    error, cosine = certificate.relative_error, certificate.cosine
    if error <= TOLERANCE:
        return
    good = [b * certificate.beta for b, e in zip(certificate.betas, certificate.errors, strict=True) if e <= TOLERANCE]
    advice = f"beta = {max(good):.3g} is within {TOLERANCE:.0%}" if good else "no beta tried is"
    told = f"At beta = {certificate.beta:.3g} the contrast is off from the gradient by {error:.0%}, noise apart"
    if cosine >= SURROGATE:
        warnings.append(
            f"{told} (cosine {cosine:.3f}): it is the exact gradient of a surrogate, as is usual for spins; {advice}."
        )
    else:
        problems.append(f"{told} (cosine {cosine:.3f}); {advice}. Lower beta, and raise `samples` against the noise.")
