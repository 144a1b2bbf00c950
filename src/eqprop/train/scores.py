"""Scores: by how many standard errors means of samples, and gradients made of them, are off from a reference.

The largest of many scores is held against what it exceeds by chance once in a thousand checks.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Float, PyTree

from eqprop.equilibrium import Ensemble
from eqprop.gradient.estimate import Estimate
from eqprop.system import System

__all__ = ["GradientScores", "gradient_scores", "largest", "limit", "name_of_mean", "state_scores"]

CHANCE = 1e-3
"""How often a right system may be called wrong."""


class GradientScores(NamedTuple):
    """A sampled gradient against its reference."""

    scores: Float[np.ndarray, " entry"]
    """Of each entry, signed."""
    noise: float
    """Standard error of the gradient, over its size."""
    off: float
    """Its distance from the reference, over its size."""


def state_scores(
    system: System, inputs: PyTree, free: Ensemble, reference: Ensemble
) -> Float[np.ndarray, "example mean"]:
    """Signed scores of the mean of each unit, and of the energy, which comes last.

    Args:
        system: The system.
        inputs: Of the examples.
        free: Ensembles of the examples, to be judged.
        reference: Ensembles that count as true.
    """
    ours, _, error = _moments(system, inputs, free)
    theirs, variance, more = _moments(system, inputs, reference)
    if free.weights is None:
        # A unit that hardly ever turns may not have turned at all, and its samples show no spread: the error is at
        # least that of as many independent samples of the reference.
        error = np.maximum(error, np.sqrt(variance / jax.tree.leaves(free.state)[0].shape[1]))
    return _scores(ours - theirs, np.hypot(error, more))


def name_of_mean(scores: Float[np.ndarray, "example mean"]) -> str:
    """Which mean has the largest score."""
    unit = int(np.abs(scores).max(axis=0).argmax())
    return f"the mean of {'the energy' if unit == scores.shape[1] - 1 else f'unit {unit}'}"


def gradient_scores(estimate: Estimate, expected: Estimate) -> GradientScores:
    """Scores of the entries of a gradient against those of another, which may be sampled too."""
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
    return GradientScores(scores, float(np.linalg.norm(error)) / size, float(np.linalg.norm(ours - theirs)) / size)


def largest(scores: Float[np.ndarray, "..."]) -> float:
    """The largest score, of either sign."""
    return float(np.max(np.abs(scores), initial=0.0))


def limit(groups: float, count: int) -> float:
    """What the largest of `count` scores exceeds once in a thousand checks.

    Args:
        groups: Independent groups of samples that the standard errors were told from; infinite for exact ones.
        count: How many scores there are.
    """
    chance = CHANCE / (2 * max(count, 1))
    return float(scipy.stats.norm.isf(chance) if np.isinf(groups) else scipy.stats.t.isf(chance, groups - 1))


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


def _scores(difference, error):
    difference, error = np.asarray(difference), np.asarray(error)
    # Rounding of sums is no difference; a difference without any spread is certain.
    difference = np.where(np.abs(difference) < 1e-9 * (1 + error), 0, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference != 0, difference / error, 0)
