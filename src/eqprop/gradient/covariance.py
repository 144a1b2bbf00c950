r"""The covariance estimator: the gradient from one free ensemble, without any nudge.

For a Boltzmann distribution $p \propto e^{-E/T}$,

$$\nabla_\theta\langle C\rangle
= -\frac{1}{T}\,\mathrm{Cov}\!\left(C, \partial_\theta E\right) + \langle\partial_\theta C\rangle,$$

the limit $\beta \to 0$ of the contrast, with no bias in $\beta$. Its variance grows with the variance of $C$ times that
of $\partial_\theta E$, hence with the size of the system, and the products must be measured together; a contrast needs
means only. It holds for classical distributions, not for thermal quantum states.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 6.2.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from eqprop.equilibrium import Ensemble
from eqprop.gradient.estimate import (
    Estimate,
    Estimator,
    batch_size,
    free_phase,
    gradient_error,
    mean_gradient,
    value_and_outputs,
)
from eqprop.settle.base import Solver
from eqprop.settle.sample.base import Sampler
from eqprop.settle.sample.enumeration import Enumeration
from eqprop.system import CostNudged, Nudge

__all__ = ["BoltzmannCovariance"]


class BoltzmannCovariance(Estimator):
    """The covariance estimator; exact with `Enumeration`.

    Args:
        solver: A sampler, or `Enumeration`; its temperature is the distribution's.
        nudge: Which loss is meant: `CostNudged` for the expected cost (the default), `Forced` for the cost of the
            expected output.

    Raises:
        ValueError: if the solver is no classical sampler with a temperature.
    """

    solver: Solver
    nudge: Nudge = eqx.field(static=True, default=CostNudged)

    def __check_init__(self):
        if not isinstance(self.solver, Sampler | Enumeration):
            raise ValueError(
                "`BoltzmannCovariance` holds for classical Boltzmann distributions only, so its solver must be "
                f"`Gibbs`, `Langevin`, `MALA` or `Enumeration`; got `{type(self.solver).__name__}`. Thermal quantum "
                "states and single rest states need `EquilibriumPropagation`."
            )

    def estimate(self, system, cost, inputs, targets, start, key):
        return _covariance(self, system, cost, inputs, targets, start, key)


@eqx.filter_jit
def _covariance(estimator, system, cost, inputs, targets, start, key):
    keys = None if key is None else jax.random.split(key, batch_size(inputs))
    free = free_phase(system, estimator.solver, inputs, start, keys)
    assert isinstance(free, Ensemble)
    good = free.settled

    def nudged(system, y, whole):
        # At unit beta the nudge energy is the cost itself, or its linearisation at the mean output.
        dtype = jax.tree.leaves(whole.restart)[0].dtype
        return estimator.nudge(system, cost, y, jax.lax.stop_gradient(whole), jnp.ones((), dtype))

    def objective(system, x, phases):
        y, whole, part = phases
        nudge = nudged(system, y, whole)
        mean = jax.lax.stop_gradient(part.expect(nudge.nudge_energy))
        assert isinstance(estimator.solver, Sampler | Enumeration)
        temperature = estimator.solver.temperature.astype(mean.dtype)

        def product(state):
            deviation = jax.lax.stop_gradient(nudge.nudge_energy(state)) - mean
            return nudge.nudge_energy(state) - deviation * system.energy(state, x) / temperature

        return part.expect(product)

    gradient = mean_gradient(objective, system, inputs, (targets, free, free), good)
    value, outputs = value_and_outputs(
        system, cost, free, targets, good, lambda phase, y: nudged(system, y, phase).loss(cost, y, phase)
    )
    error = None
    if free.groups >= 2:
        error = gradient_error(objective, system, inputs, lambda i: (targets, free, _group(free, i)), good, free.groups)
    return Estimate(value, gradient, outputs, free.result, free, None, error)


def _group(free: Ensemble, index) -> Ensemble:
    return jax.vmap(lambda ensemble: ensemble.group(index))(free)
