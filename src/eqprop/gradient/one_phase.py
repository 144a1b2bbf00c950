r"""One nudged phase and no free one, for doubled systems.

$$\nabla_\theta L \approx \frac{1}{\beta}\nabla_\theta F_\beta(\theta, s^\beta)$$

where the energy and its parameter-derivative vanish at every free equilibrium, so that the free term of the contrast is
known to be zero without settling it.

Source:
    R. Hoier, D. Staudt and C. Zach, Dual propagation: accelerating contrastive Hebbian learning with dyadic neurons,
    2023.
"""

import equinox as eqx
import jax
from jaxtyping import Array, Inexact, Int, PyTree

from eqprop.equilibrium import RESULT, AbstractEquilibrium
from eqprop.gradient.estimate import (
    Estimate,
    Estimator,
    batch_size,
    map_batch,
    mean_gradient,
    value_and_outputs,
)
from eqprop.gradient.stencil import one_sided
from eqprop.settle.base import Solver
from eqprop.system import CostNudged, Forced, Nudge

__all__ = ["OnePhase"]


class _OnlyPhase(AbstractEquilibrium):
    """The one phase, which is nudged: an equilibrium, though not of the free system."""

    state: PyTree
    result: RESULT
    residual: Inexact[Array, "*batch"]
    steps: Int[Array, "*batch"]

    @property
    def restart(self):
        """The state itself."""
        return self.state

    def expect(self, fn):
        """`fn` of the state."""
        return fn(self.state)


class OnePhase(Estimator):
    """The gradient from a single nudged phase of a system that declares `free_vanishes`.

    `value` and `outputs` are read in that phase. With `CostNudged` on a doubled system they and the gradient are
    exact at every beta; with `Dyads` off by beta squared.

    Args:
        beta: Nudging strength.
        solver: Settles the one phase.
        nudge: One that needs no free equilibrium: `CostNudged` or `Dyads`.
    """

    beta: Inexact[Array, ""]
    solver: Solver
    nudge: Nudge = eqx.field(static=True)

    def __init__(self, beta: float | Inexact[Array, ""], solver: Solver, nudge: Nudge = CostNudged):
        self.beta = one_sided(beta).nodes[1]
        self.solver = solver
        self.nudge = nudge
        if nudge is Forced:
            raise ValueError(
                "`OnePhase` has no free phase from which `Forced` could take its force. Use `nudge=CostNudged` or "
                "`Dyads`, or `EquilibriumPropagation`."
            )

    def estimate(self, system, cost, inputs, targets, start, key):
        if not system.free_vanishes:
            raise ValueError(
                f"`{type(system).__name__}` does not declare `free_vanishes`: its free phase carries part of the "
                "gradient. Use `EquilibriumPropagation`, or a `Doubled` system."
            )
        run = _estimate if self.solver.host else _estimate_compiled
        return run(self, system, cost, inputs, targets, start, key)

    def scaled(self, factor: float) -> "OnePhase":
        """The same estimator at `factor` times the nudging strength."""
        return OnePhase(self.beta * factor, self.solver, self.nudge)


def _estimate(propagate, system, cost, inputs, targets, start, key):
    keys = None if key is None else jax.random.split(key, batch_size(inputs))

    def settle_one(x, y, begin, key):
        begin = system.initial_state(x) if begin is None else begin
        beta = propagate.beta.astype(jax.tree.leaves(begin)[0].dtype)
        return propagate.solver.solve(propagate.nudge(system, cost, y, None, beta), x, begin, free=None, key=key)

    phase = map_batch(settle_one, propagate.solver)(inputs, targets, start, keys)

    def scaled_energy(system, x, both):
        y, phase = both
        beta = propagate.beta.astype(jax.tree.leaves(phase.restart)[0].dtype)
        nudged = propagate.nudge(system, cost, y, None, beta)
        return phase.expect(lambda s: nudged.energy(s, x)) / beta

    gradient = mean_gradient(scaled_energy, system, inputs, (targets, phase), phase.settled)
    value, outputs = value_and_outputs(system, cost, phase, targets, phase.settled)
    only = _OnlyPhase(phase.restart, phase.result, phase.residual, phase.steps)
    return Estimate(value, gradient, outputs, phase.result, only, None)


_estimate_compiled = eqx.filter_jit(_estimate)
