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
from jaxtyping import Float, PyTree

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
from eqprop.train.scores import gradient_scores, largest, limit, name_of_mean, state_scores

__all__ = ["CheckedEnsemble", "check_ensemble", "is_stochastic"]

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
    state_scores: Float[np.ndarray, "example mean"]
    """Scores of the means of units and of the energy; 0 where nothing is sampled."""
    gradient_scores: Float[np.ndarray, " entry"]
    """Scores of the entries of the gradient."""
    scores_expected: float
    """What the largest of them exceeds by chance once in a thousand checks."""
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
    def state_score(self) -> float:
        """The largest score of a mean."""
        return largest(self.state_scores)

    @property
    def gradient_score(self) -> float:
        """The largest score of an entry of the gradient."""
        return largest(self.gradient_scores)

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

    states = state_scores(system, inputs, free, truth.free)
    gradients, noise, off = gradient_scores(estimate, expected)
    sampled = [p.groups for p in (free, truth.free) if isinstance(p, Ensemble) and p.weights is None]
    accepted = limit(float(min(sampled, default=np.inf)), states.size + gradients.size)
    excess = max(off**2 - noise**2, 0.0) ** 0.5
    bias = excess if certificate is None else certificate.relative_error
    step_bias = None if free.step_bias is None else float(jnp.max(jnp.abs(free.step_bias)))

    if largest(states) > accepted:
        told = f"{name_of_mean(states)} is off by {largest(states):.1f} standard errors"
        wrong = _wrong_distribution(system, solver, inputs, keys, truth.free, accepted, told, step_bias)
        (warnings if step_bias is not None and step_bias <= TOLERANCE else problems).append(wrong)
    if dead == estimate.settled.size:
        problems.append(_no_contrast(expected, jax.tree.leaves(free.state)[0].shape[1]))
    elif largest(gradients) > accepted and excess > TOLERANCE:
        problems.append(
            f"The gradient is wrong: entries are off by up to {largest(gradients):.1f} standard errors, {excess:.0%} "
            "of its size beyond the noise. Check `energy`, and that nudged phases have time to settle (`burn_in`)."
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
        state_scores=states,
        gradient_scores=gradients,
        scores_expected=accepted,
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


def _wrong_distribution(system, solver, inputs, keys, reference, accepted, told, step_bias):
    said = f"The samples are not those of exp(-E/T) at T = {float(solver.temperature):g}: {told}."
    if step_bias is not None and step_bias > TOLERANCE:
        return f"{said} The step adds {step_bias:.0%} to the virial: lower `step_size`, or use `MALA`."
    patient = dataclasses.replace(solver, burn_in=20 * (solver.burn_in + 10), hottest=None)
    again = largest(state_scores(system, inputs, _free(system, patient, inputs, keys), reference))
    if again <= accepted:
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
