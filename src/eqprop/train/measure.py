"""Measures of training: what is summed at each step, and what an epoch's line says."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium
from eqprop.gradient.estimate import Estimate
from eqprop.system import System

__all__ = ["FAILURES", "epoch_metrics", "no_sums", "reads_units", "saturation", "sums_of"]

FAILURES = {
    "max_steps_reached": RESULT.max_steps_reached,
    "diverged": RESULT.diverged,
    "singular": RESULT.singular,
    "nudge_lost": RESULT.nudge_lost,
    "too_few_samples": RESULT.too_few_samples,
    "not_retraced": RESULT.not_retraced,
    "unstable_step": RESULT.unstable_step,
}
"""The ways an example can fail to count."""

_FLOATS = ("cost", "saturated", "gradient_norm")
_COUNTS = ("steps", "examples", "settled", "wrong", "free_steps", "nudged_steps", "sampled", "dead", *FAILURES)


def no_sums() -> dict[str, Array]:
    """Sums before the first step of an epoch."""
    zeros = {name: jnp.zeros(()) for name in _FLOATS}
    return zeros | {name: jnp.zeros((), jnp.int32) for name in _COUNTS}


def sums_of(
    estimate: Estimate,
    gradient_norm: Float[Array, ""],
    wrong: Bool[Array, " batch"] | None,
    saturated: Float[Array, " batch"] | None,
) -> dict[str, Array]:
    """One step's contribution."""
    settled = estimate.settled
    count = jnp.sum(settled, dtype=jnp.int32)
    sums = {
        "cost": jnp.where(count > 0, estimate.value * count.astype(estimate.value.dtype), 0),
        "saturated": jnp.zeros(()) if saturated is None else jnp.sum(saturated),
        "gradient_norm": gradient_norm,
        "steps": jnp.ones((), jnp.int32),
        "examples": jnp.full((), settled.size, jnp.int32),
        "settled": count,
        "wrong": jnp.zeros((), jnp.int32) if wrong is None else jnp.sum(wrong, dtype=jnp.int32),
        "free_steps": jnp.sum(estimate.free.steps, dtype=jnp.int32),
        "nudged_steps": jnp.zeros((), jnp.int32),
        "sampled": jnp.zeros((), jnp.int32),
        "dead": jnp.zeros((), jnp.int32),
    }
    if estimate.unmoved is not None and wrong is not None:
        # Wrong answers that gave no contrast: the dead zone of discrete systems.
        sums["sampled"] = jnp.full((), settled.size, jnp.int32)
        sums["dead"] = jnp.sum(wrong & estimate.unmoved & settled, dtype=jnp.int32)
    if estimate.nudged is not None:
        # Of all legs together; a metric divides by their number, held in no array, so by mean here.
        steps = estimate.nudged.steps.reshape(-1, settled.size)
        sums["nudged_steps"] = jnp.sum(steps, dtype=jnp.int32) // steps.shape[0]
    for name, failure in FAILURES.items():
        sums[name] = jnp.sum(estimate.result == failure, dtype=jnp.int32)
    return {name: sums[name].astype(old.dtype) for name, old in no_sums().items()}


def epoch_metrics(sums: Mapping[str, Array], *, errors: bool, saturation: bool) -> dict[str, float | int]:
    """Means over an epoch, from its sums. A measure that has no meaning here is left out."""
    s = {name: float(np.asarray(value)) for name, value in sums.items()}
    examples, steps = max(s["examples"], 1), max(s["steps"], 1)
    metrics = {"train_cost": s["cost"] / max(s["settled"], 1)}
    if errors:
        metrics["train_error"] = s["wrong"] / examples
    metrics["unsettled"] = 1 - s["settled"] / examples
    if saturation:
        metrics["saturated"] = s["saturated"] / examples
    if s["sampled"] > 0:
        metrics["dead"] = s["dead"] / max(s["wrong"], 1)
    metrics["free_steps"] = s["free_steps"] / examples
    metrics["nudged_steps"] = s["nudged_steps"] / examples
    metrics["gradient_norm"] = s["gradient_norm"] / steps
    return metrics


def reads_units(system: System, inputs: PyTree) -> bool:
    """Whether the outputs are bounded coordinates of the state, so that they can saturate."""
    if system.bounds() is None:
        return False
    state = system.initial_state(inputs)
    read, pull_back = jax.vjp(system.output, state)
    probe = jax.tree.map(lambda o: 1 + jnp.arange(o.size, dtype=o.dtype).reshape(o.shape), read)
    # For outputs that are coordinates of the state, reading what was pulled back returns it.
    again = system.output(pull_back(probe)[0])
    return bool(eqx.tree_equal(probe, again, rtol=1e-6))


def saturation(system: System, free: AbstractEquilibrium) -> Float[Array, ""]:
    """Fraction of one example's output units that rest on a bound, where nothing is learned from them."""
    state = free.restart
    bounds = system.bounds()
    assert bounds is not None
    lower, upper = bounds
    read, pull_back = jax.vjp(system.output, state)
    marks = pull_back(jax.tree.map(jnp.ones_like, read))[0]

    def at_wall(s, mark, low, high):
        return jnp.sum((mark != 0) & ((s <= low) | (s >= high)))

    on_walls = sum(jax.tree.leaves(jax.tree.map(at_wall, state, marks, lower, upper)))
    return jnp.asarray(on_walls, float) / sum(leaf.size for leaf in jax.tree.leaves(read))
