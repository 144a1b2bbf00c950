"""At finite beta an estimate is the exact gradient of a surrogate, whatever the nudge does to the state."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from tests.systems import flat, quartic, quartic_batch

import eqprop as ep
from eqprop.cost import RunningCost
from eqprop.settle.path import PathNewton
from eqprop.substrates.trajectory import FixedEnds, Lagrangian, Path


class Pendulums(Lagrangian):
    """Two pendulums and a spring between them, under a force."""

    gravity: Float[Array, " pendulum"]
    spring: Float[Array, ""]
    dimension: int = eqx.field(static=True, default=2)

    def __call__(self, position, velocity, time, drive):
        swing = jnp.sum(self.gravity * (1 - jnp.cos(position))) + 0.5 * self.spring * (position[0] - position[1]) ** 2
        return 0.5 * jnp.sum(velocity**2) - swing + jnp.sum(drive * position)


def static():
    inputs, targets = quartic_batch(size=1)
    return quartic(), ep.SquaredError(), inputs, targets, ep.Newton(rtol=1e-14, atol=1e-15)


def action():
    """Between given ends."""
    system = Path(
        Pendulums(jnp.asarray([1.0, 1.6]), jnp.asarray(0.5)),
        FixedEnds([0.5, -0.3], [-0.4, 0.6]),
        steps=40,
        duration=2.0,
    )
    time = np.linspace(0, 1, 41)[None, :, None]
    targets = 0.2 * np.random.default_rng(0).normal(size=(1, len(system.times), 2))
    cost = RunningCost(ep.SquaredError(), system.weights())
    return (
        system,
        cost,
        jnp.asarray(0.3 * np.sin(6 * time) * np.ones(2)),
        jnp.asarray(targets),
        PathNewton(1e-13, 1e-14),
    )


@pytest.mark.parametrize("problem", [static, pytest.param(action, marks=pytest.mark.slow)])
def test_the_symmetric_estimate_at_a_large_beta_is_the_gradient_of_its_surrogate(problem):
    system, cost, inputs, targets, solver = problem()
    beta = 0.4
    free = ep.settle(system, inputs[0], solver).state
    start = jax.tree.map(lambda leaf: leaf[None], free)
    rule = ep.EquilibriumPropagation(ep.symmetric(beta), solver, ep.CostNudged)
    estimate = rule(system, cost, inputs, targets, start=start)
    assert estimate.settled.all()

    @jax.jit
    def surrogate(system):
        def value(strength):
            nudged = ep.CostNudged(system, cost, targets[0], None, strength)
            return nudged.energy(solver.solve(nudged, inputs[0], free, free=None, key=None).state, inputs[0])

        return (value(jnp.asarray(beta)) - value(jnp.asarray(-beta))) / (2 * beta)

    # Fourth order central differences: truncation and rounding both below the bar.
    unravel, step = jax.flatten_util.ravel_pytree(system)[1], 2e-3
    vector = jax.random.normal(jax.random.key(3), flat(system).shape)
    vector = vector / jnp.linalg.norm(vector)
    at = {k: float(surrogate(unravel(flat(system) + k * step * vector))) for k in (-2, -1, 1, 2)}
    slope = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
    assert abs(slope - float(flat(estimate.gradient) @ vector)) < 1e-9 * np.linalg.norm(flat(estimate.gradient))
