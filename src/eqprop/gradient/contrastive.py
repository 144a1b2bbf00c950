r"""Clamped phases: contrastive Hebbian learning and coupled learning.

Outputs are held instead of nudged. With $E^c$ the energy of the clamped rest state and $E^0$ of the free one,

* contrastive Hebbian learning descends $E^c - E^0$ with the outputs at their targets;
* coupled learning descends $(E^c - E^0)/\eta$ with the outputs a fraction $\eta$ of the way there. Its gradient is
  that of $\tfrac12 (o - y)^\top S\,(o - y)$ to first order in $\eta$, with $S$ the stiffness seen from the outputs,
  held.

Neither is the gradient of the cost; both are kept because laboratories use them.

Source:
    J. R. Movellan, Contrastive Hebbian learning in the continuous Hopfield model, 1991. M. Stern et al., Supervised
    learning in physical networks: from machine learning to learning machines, 2021.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from eqprop.equilibrium import RESULT, Ensemble
from eqprop.gradient.estimate import (
    Estimate,
    Estimator,
    batch_size,
    free_phase,
    map_batch,
    mean_gradient,
    value_and_outputs,
)
from eqprop.settle.base import Solver
from eqprop.system import Clamped

__all__ = ["ContrastiveHebbian", "CoupledLearning"]


class ContrastiveHebbian(Estimator):
    r"""Outputs clamped to their targets: $\nabla_\theta(E^c - E^0)$."""

    solver: Solver

    def estimate(self, system, cost, inputs, targets, start, key):
        return _clamped(self.solver, system, cost, inputs, targets, start, key, 1.0)


class CoupledLearning(Estimator):
    r"""Outputs clamped a fraction `eta` of the way to their targets: $\nabla_\theta(E^c - E^0)/\eta$."""

    solver: Solver
    eta: float = 1e-2

    def __check_init__(self):
        if not 0 < self.eta <= 1:
            raise ValueError(f"`CoupledLearning.eta` must lie in (0, 1]; got {self.eta}.")

    def estimate(self, system, cost, inputs, targets, start, key):
        return _clamped(self.solver, system, cost, inputs, targets, start, key, self.eta)


def _clamped(solver, system, cost, inputs, targets, start, key, eta):
    run = _contrast if solver.host else _contrast_compiled
    return run(solver, system, cost, inputs, targets, start, key, jnp.asarray(eta, jnp.result_type(float)))


def _contrast(solver, system, cost, inputs, targets, start, key, eta):
    keys = None if key is None else jax.random.split(key, batch_size(inputs))
    free = free_phase(system, solver, inputs, start, keys)

    def clamp(x, y, free, key):
        partway = jax.tree.map(lambda o, t: o + eta.astype(o.dtype) * (t - o), free.expect(system.output), y)
        # Any one state shows which coordinates are outputs; an ensemble restarts from many.
        held = Clamped(system, partway, system.initial_state(x) if isinstance(free, Ensemble) else free.restart)
        # The free reference makes the tolerance relative to the displacement that clamping causes.
        return solver.solve(held, x, free.restart, free=free, key=key)

    clamped = map_batch(clamp, solver)(inputs, targets, free, keys)
    good = free.settled & clamped.settled

    def contrast(system, x, phases):
        free, clamped = phases
        held = clamped.expect(lambda s: system.energy(s, x))
        return (held - free.expect(lambda s: system.energy(s, x))) / eta.astype(held.dtype)

    gradient = mean_gradient(contrast, system, inputs, (free, clamped), good)
    value, outputs = value_and_outputs(system, cost, free, targets, good)
    result = jax.vmap(RESULT.where)(free.settled, clamped.result, free.result)
    return Estimate(value, gradient, outputs, result, free, jax.tree.map(lambda leaf: leaf[None], clamped))


_contrast_compiled = eqx.filter_jit(_contrast)
