"""The proof: the gradient learned from, held against the exact one at the trained weights, over beta."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from eqprop.gradient.certify import certify
from eqprop.gradient.estimate import batch_size
from eqprop.gradient.one_phase import OnePhase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import ImplicitDifferentiation
from eqprop.settle.base import IterativeSolver
from eqprop.settle.eigen import ThermalEigen
from eqprop.settle.newton import Newton
from eqprop.settle.sample import Enumeration, Sampler
from eqprop.train.report.certificate import curves, headlines, table, verdict
from eqprop.train.report.sampling import sampled_proof
from eqprop.train.report.section import LeftOut, Section
from eqprop.train.report.study import Study

__all__ = ["gradient_proof"]

DENSE_UNITS = 1_600
"""Largest state for which a dense Hessian of each example is made: seconds of work."""
EXAMPLES = ((400, 8), (DENSE_UNITS, 4))
"""Examples judged, for states of up to so many units."""
EXAMPLES_OF_LARGE = 2


def gradient_proof(study: Study) -> Section:
    """The certificate, and its pictures."""
    experiment, solver = study.experiment, study.solver()
    propagate = experiment.propagate
    if isinstance(solver, Sampler | Enumeration):
        return sampled_proof(study)
    if not isinstance(propagate, EquilibriumPropagation | OnePhase):
        raise LeftOut(f"the estimator is `{type(propagate).__name__}`, which does not nudge")
    if isinstance(solver, ThermalEigen):
        raise LeftOut("a thermal state is no stationary point, to which implicit differentiation would apply")
    large = study.units > DENSE_UNITS
    few = next((number for units, number in EXAMPLES if study.units <= units), EXAMPLES_OF_LARGE)
    inputs, targets = study.examples(few)
    truth, how = _truth(study, solver, large)
    began = time.monotonic()
    certificate = certify(
        experiment.system, experiment.cost, inputs, targets, propagate, truth=truth, key=jax.random.key(0)
    )
    seconds = time.monotonic() - began
    dtype = jnp.result_type(float).name
    text = (
        f"The gradient that equilibrium propagation learns from, and the exact one ({how}), on "
        f"{batch_size(inputs)} held-out examples at the trained weights, in {dtype}; {seconds:.1f} s. "
        "The certificate judges the estimator with the tolerances it was trained with. The curves show it tightly "
        "settled, so that what they show is the error of the difference rule alone.\n\n" + verdict(certificate)
    )
    return Section(
        "Is the gradient the true one?",
        text,
        curves(certificate),
        table=table(certificate),
        headlines=headlines(certificate),
    )


def _truth(study, solver, large):
    if not large:
        return ImplicitDifferentiation(Newton(rtol=1e-12, atol=1e-13)), "by implicit differentiation, dense Hessians"
    if isinstance(study.experiment.propagate, OnePhase):
        raise LeftOut(f"a doubled state of {study.units} units, a saddle, is too large for dense Hessians")
    if not isinstance(solver, IterativeSolver):
        raise LeftOut(
            f"a state of {study.units} units is too large for dense Hessians, and `{type(solver).__name__}` cannot be "
            "tightened in their place"
        )
    tight = eqx.tree_at(lambda s: (s.rtol, s.atol, s.max_steps), solver, (1e-11, 1e-13, 20 * solver.max_steps))
    how = (
        f"by implicit differentiation; the {study.units} units of the state are too many for dense Hessians in a "
        "report, so that conjugate gradients solve with them, which takes the free state to be a minimum, and the "
        "free phase is found by the run's own solver, tightened"
    )
    return ImplicitDifferentiation(tight, lx.CG(rtol=1e-10, atol=1e-12)), how
