r"""Backpropagation through time: reverse-mode differentiation through the steps of a solver.

A baseline that equilibrium propagation is measured against, and, where the state comes to rest, a reference.

There are two kinds of time. A network that relaxes runs `steps` steps of its solver's map from its initial state, and
the cost of the last state is differentiated backwards through all of them, or through the last `truncation` only. A
system in motion (`Hamiltonian`, `Stack`) makes one `Run`, and the cost of what is read on the way is differentiated
backwards through the leapfrog, friction included. Memory grows with the number of steps that are differentiated; that
of equilibrium propagation does not.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 5.2.
    A. Laborieux et al., Scaling equilibrium propagation to deep ConvNets, 2021 (as a baseline).
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from eqprop.equilibrium import RESULT, Equilibrium
from eqprop.gradient.estimate import Estimate, Estimator, batch_size, value_and_outputs
from eqprop.settle.base import IterativeSolver, Solver
from eqprop.settle.run import Run, ended, run_batch
from eqprop.system import project

__all__ = ["BackpropagationThroughTime", "UnrolledDifferentiation"]


class BackpropagationThroughTime(Estimator):
    """Reverse-mode differentiation through the last steps of a solver's iteration, or through a run.

    The gradient is that of the state reached, settled or not; `settled` still says which examples did, and all of
    them count.

    Args:
        solver: Its step is the network's map, `FixedPoint` for networks in discrete time; or `Run()`, for motion.
        steps: Steps from the initial state to the state that is judged. None for a run, which is as long as it is.
        truncation: How many of the last steps are differentiated; all, and the initial state, by default.
    """

    only_settled: ClassVar[bool] = False

    solver: Solver
    steps: int | None = None
    truncation: int | None = None

    def __check_init__(self):
        if isinstance(self.solver, Run):
            if self.steps is not None or self.truncation is not None:
                raise ValueError(
                    "Backpropagation through a `Run` differentiates all of it; leave out `steps` and `truncation`."
                )
            return
        if not isinstance(self.solver, IterativeSolver):
            raise ValueError(
                "`solver` of backpropagation through time must make steps, such as `FixedPoint`, or be `Run()`, for a "
                f"system in motion; got {type(self.solver).__name__}."
            )
        if self.steps is None or self.steps < 1:
            raise ValueError(f"`steps` of backpropagation through time must be at least 1; got {self.steps}.")
        if self.truncation is not None and not 1 <= self.truncation <= self.steps:
            raise ValueError(
                "`truncation` of backpropagation through time must lie between 1 and `steps` = "
                f"{self.steps}; got {self.truncation}."
            )

    def estimate(self, system, cost, inputs, targets, start, key):
        del key
        if isinstance(self.solver, Run):
            return _through_run(system, cost, inputs, targets)
        return _through_steps(self, system, cost, inputs, targets, start)


UnrolledDifferentiation = BackpropagationThroughTime
"""The same estimator, by the name it has among the references."""


@eqx.filter_jit
def _through_run(system, cost, inputs, targets):
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)

    def loss(parameters):
        ends, outputs = run_batch(eqx.combine(parameters, rest), inputs)
        return jnp.mean(jax.vmap(cost)(outputs, targets)), (ends, outputs)

    (value, (ends, outputs)), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    free = jax.vmap(ended)(ends)
    return Estimate(value, gradient, outputs, free.result, free, None)


@eqx.filter_jit
def _through_steps(rule, system, cost, inputs, targets, start):
    last = rule.steps if rule.truncation is None else rule.truncation
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)

    def begin(system, x, state):
        state = project(system, system.initial_state(x) if state is None else state)
        return (
            state,
            rule.solver.init(system, x, state, {}),
            jnp.full((), jnp.inf, jax.tree.leaves(state)[0].real.dtype),
        )

    def run(system, x, loop, length):
        def advance(loop, _):
            state, carry, _ = loop
            state, residual, carry = rule.solver.step(system, x, state, carry)
            return (state, carry, jax.lax.stop_gradient(residual)), None

        return jax.lax.scan(advance, loop, length=length)[0]

    early = None
    if rule.truncation is not None:
        # Steps before the last run outside the function that is differentiated: they leave no trace in memory.
        early = jax.vmap(lambda x, s: run(system, x, begin(system, x, s), rule.steps - last))(inputs, start)
        early = jax.tree.map(jax.lax.stop_gradient, early)

    def loss(parameters):
        combined = eqx.combine(parameters, rest)
        # Without truncation the initial state is differentiated too: in some networks it is a feed-forward pass.
        loops = jax.vmap(lambda x, s: begin(combined, x, s))(inputs, start) if early is None else early
        states, carries, residuals = jax.vmap(lambda x, loop: run(combined, x, loop, last))(inputs, loops)
        free = jax.vmap(lambda s, c, r: _reached(rule, s, c, r))(states, carries, residuals)
        value, outputs = value_and_outputs(combined, cost, free, targets, jnp.ones(batch_size(inputs), bool))
        return value, (free, outputs)

    (value, (free, outputs)), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    return Estimate(value, gradient, outputs, free.result, free, None)


def _reached(rule, state, carry, residual):
    still = jax.lax.stop_gradient(state)
    settled = residual <= rule.solver.tolerance(still, None)
    unsettled = RESULT.where(jnp.isfinite(residual), RESULT.max_steps_reached, rule.solver.non_finite)
    result = RESULT.where(settled, RESULT.settled, unsettled)
    steps = jnp.asarray(rule.steps, jnp.int32)
    return Equilibrium(state, result, residual, steps, jax.tree.map(jax.lax.stop_gradient, rule.solver.stats(carry)))
