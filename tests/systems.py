"""Small systems with known answers, for the tests of solvers and estimators."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import eqprop as ep


class Quartic(ep.System):
    """A smooth energy: a positive matrix, a quartic wall and a coupling that the parameters set."""

    holomorphic = True

    stiffness: Float[Array, " unit"]
    coupling: Float[Array, "unit unit"]

    def energy(self, state, inputs):
        symmetric = self.coupling + self.coupling.T
        quadratic = 0.5 * jnp.sum(self.stiffness * state**2) + 0.25 * state @ symmetric @ state
        return (
            quadratic + 0.1 * jnp.sum(state**4) + 0.2 * jnp.sum(state[1:] * state[:-1] ** 2) - jnp.sum(inputs * state)
        )

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


def quartic(units: int = 6, seed: int = 0) -> Quartic:
    keys = jax.random.split(jax.random.key(seed), 2)
    stiffness = 2.0 + jax.random.uniform(keys[0], (units,))
    return Quartic(stiffness, 0.2 * jax.random.normal(keys[1], (units, units)))


def quartic_batch(units: int = 6, size: int = 5, seed: int = 1):
    keys = jax.random.split(jax.random.key(seed), 2)
    return jax.random.normal(keys[0], (size, units)), 0.3 * jax.random.normal(keys[1], (size, units))


class Springs(ep.System):
    """Uncoupled springs: s = x / k, and with a cost nudge s(beta) = (x + beta y) / (k + beta)."""

    holomorphic = True

    stiffness: Float[Array, " spring"]

    def energy(self, state, inputs):
        return 0.5 * jnp.sum(self.stiffness * state**2) - jnp.sum(inputs * state)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


class Saddle(ep.System):
    """A quadratic form with two negative directions, plus a cubic: its rest state is a saddle."""

    curvature: Float[Array, " unit"]

    def energy(self, state, inputs):
        form = 0.5 * jnp.sum(self.curvature * state**2) + 0.3 * jnp.sum(state[1:] * state[:-1])
        return form + 0.05 * jnp.sum(state**3) - jnp.sum(inputs * state)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


def flat(tree) -> Array:
    """All parameters of a gradient as one vector."""
    import jax.flatten_util

    return jax.flatten_util.ravel_pytree(tree)[0]


def relative(estimate, truth) -> float:
    """Relative error between two gradients."""
    estimate, truth = flat(estimate), flat(truth)
    return float(jnp.linalg.norm(estimate - truth) / jnp.linalg.norm(truth))
