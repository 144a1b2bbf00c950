"""Agnostic systems: the gradient of the unknown energy from positions of its parameters alone."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep

NEWTON = ep.Newton(rtol=1e-12, atol=1e-13)


class Cubic(ep.System):
    """A quartic energy whose form the learner is not told."""

    coupling: jax.Array
    drive: jax.Array

    def energy(self, state, inputs):
        quartic = 0.5 * jnp.sum(state**2) + 0.05 * jnp.sum(state**4)
        return quartic - 0.5 * jnp.dot(state, jnp.tanh(self.coupling) @ state) - jnp.dot(inputs @ self.drive, state)

    def initial_state(self, inputs):
        return jnp.zeros(4)

    def output(self, state):
        return state[-2:]


class Hollow(ep.System):
    def energy(self, state, inputs):
        return 0.5 * jnp.sum(state**2)

    def initial_state(self, inputs):
        return jnp.zeros(1)


def unknown():
    random = np.random.default_rng(0)
    coupling = random.normal(size=(4, 4)) * 0.2
    return Cubic(jnp.asarray(coupling + coupling.T), jnp.asarray(random.normal(size=(3, 4))))


INPUTS, TARGETS = jnp.asarray([[0.5, -0.3, 0.8]]), jnp.asarray([[0.2, -0.4]])


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])


def held(compliance):
    """The agnostic system, its knobs turned by feedback until the parameters rest where they were."""
    system = unknown()
    parameters = eqx.filter(system, eqx.is_inexact_array)
    agnostic = ep.Agnostic(system, compliance=compliance)
    state = ep.settle(agnostic, INPUTS[0], NEWTON).state
    for _ in range(60):
        if np.abs(flat(state[1]) - flat(parameters)).max() < 1e-14:
            break
        agnostic = agnostic.recentred(state, parameters)
        state = ep.settle(agnostic, INPUTS[0], NEWTON).state
    np.testing.assert_allclose(flat(state[1]), flat(parameters), atol=1e-12)
    return agnostic


def test_the_centred_rule_is_off_by_a_term_in_the_compliance():
    # Check 13: linear in the compliance, and small at 1e-5.
    truth = flat(ep.ImplicitDifferentiation(NEWTON)(unknown(), ep.SquaredError(), INPUTS, TARGETS).gradient)
    compliances, errors = [1e-3, 1e-4, 1e-5], []
    for compliance in compliances:
        propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON)
        estimate = propagate(held(compliance), ep.SquaredError(), INPUTS, TARGETS)
        assert estimate.settled.all()
        errors.append(np.linalg.norm(flat(estimate.gradient) - truth) / np.linalg.norm(truth))
    assert abs(np.log10(errors[0] / errors[1]) - 1) < 0.1, errors
    assert errors[2] < 3e-3, errors


def test_the_gradient_is_read_from_positions_and_the_nudge_itself_takes_the_step():
    agnostic, beta = held(1e-3), 0.05
    propagate = ep.EquilibriumPropagation(ep.symmetric(beta), NEWTON)
    estimate = propagate(agnostic, ep.SquaredError(), INPUTS, TARGETS)
    up, down = (flat(jax.tree.map(lambda leaf, k=k: leaf[k, 0], estimate.nudged.state)[1]) for k in range(2))
    positions = -(up - down) / (2 * beta * agnostic.compliance)
    np.testing.assert_allclose(flat(estimate.gradient), positions, rtol=1e-6, atol=1e-9)
    # With the knobs held, the parameters moved downhill by compliance times beta.
    home = flat(jax.tree.map(lambda leaf: leaf[0], estimate.free.state)[1])
    np.testing.assert_allclose(up - home, -agnostic.compliance * beta * positions, rtol=0.05, atol=1e-7)


def test_the_gradient_in_the_knobs_is_exact():
    agnostic = ep.Agnostic(unknown(), compliance=0.05)
    certificate = ep.certify(
        agnostic, ep.SquaredError(), INPUTS, TARGETS, ep.EquilibriumPropagation(ep.symmetric(0.02), NEWTON)
    )
    assert certificate.ok, str(certificate)
    assert abs(certificate.order - 2) < 0.1
    assert certificate.relative_error < 1e-3


def test_bad_settings_are_refused_in_words():
    with pytest.raises(ValueError, match="`compliance` must be positive; got 0"):
        ep.Agnostic(unknown(), compliance=0.0)
    with pytest.raises(ValueError, match="`Hollow` holds no trainable arrays"):
        ep.Agnostic(Hollow(), compliance=1e-3)
