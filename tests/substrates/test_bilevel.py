"""Bilevel learning: hyper-gradients against implicit differentiation, a closed form, and the rule that refuses."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.substrates.bilevel import InnerProblem, quadratic_pull

NEWTON = ep.Newton(rtol=1e-12, atol=1e-13)


def log_loss(weights, data):
    features, labels = data
    return jnp.mean(jnp.logaddexp(0.0, -labels * (features @ weights)))


def inner_loss(hyper, weights, data):
    return log_loss(weights, data) + quadratic_pull(weights, hyper["centre"], hyper["log_strength"])


def problem():
    """Logistic regression with a strength and a centre for each weight; one task."""
    random = np.random.default_rng(0)
    truth = random.normal(size=8)

    def rows():
        features = random.normal(size=(30, 8))
        labels = np.sign(features @ truth + 0.5 * random.normal(size=30))
        return jnp.asarray(features)[None], jnp.asarray(labels)[None]

    hyper = {"centre": jnp.asarray(0.3 * random.normal(size=8)), "log_strength": jnp.full(8, -2.0)}
    return InnerProblem(inner_loss, hyper, jnp.zeros(8)), ep.FunctionCost(log_loss), rows(), rows()


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])


def error(estimate, truth):
    return np.linalg.norm(flat(estimate.gradient) - truth) / np.linalg.norm(truth)


def test_the_hyper_gradient_is_second_order():
    # Check 11.
    system, cost, train, validation = problem()
    truth = flat(ep.ImplicitDifferentiation(NEWTON)(system, cost, train, validation).gradient)
    betas = np.array([0.25, 0.125, 0.0625])
    errors = [
        error(ep.EquilibriumPropagation(ep.symmetric(b), NEWTON)(system, cost, train, validation), truth) for b in betas
    ]
    assert abs(np.polyfit(np.log(betas), np.log(errors), 1)[0] - 2) < 0.05, errors
    assert errors[1] < 2e-2, errors


def test_ridge_has_the_closed_form():
    # w = (A'A/n + e^l)^-1 A'y/n, so dL/dl = -grad L . (A'A/n + e^l)^-1 e^l w.
    random = np.random.default_rng(1)
    features, wanted = random.normal(size=(20, 5)), random.normal(size=20)
    other, held_out = random.normal(size=(20, 5)), random.normal(size=20)

    def mean_squared(weights, data):
        return 0.5 * jnp.mean((data[0] @ weights - data[1]) ** 2)

    def ridge(hyper, weights, data):
        return mean_squared(weights, data) + quadratic_pull(weights, jnp.zeros(5), hyper)

    log_strength = np.array([-1.0, 0.5, 0.0, -2.0, 1.0])
    inverse = np.linalg.inv(features.T @ features / 20 + np.diag(np.exp(log_strength)))
    weights = inverse @ features.T @ wanted / 20
    slope = other.T @ (other @ weights - held_out) / 20
    exact = -(inverse @ slope) * np.exp(log_strength) * weights
    system = InnerProblem(ridge, jnp.asarray(log_strength), jnp.zeros(5))
    data, validation = (
        (jnp.asarray(a)[None], jnp.asarray(b)[None]) for a, b in [(features, wanted), (other, held_out)]
    )
    estimate = ep.EquilibriumPropagation(ep.symmetric(1e-2), NEWTON)(
        system, ep.FunctionCost(mean_squared), data, validation
    )
    np.testing.assert_allclose(estimate.outputs[0], weights, atol=1e-12)
    np.testing.assert_allclose(estimate.gradient.hyper, exact, rtol=1e-4, atol=1e-8)


def learner(accuracy):
    """Gradient descent on the inner loss, stopped at this size of the gradient in both phases."""
    return AbsoluteFlow(accuracy)


class AbsoluteFlow(ep.GradientFlow):
    """A learner that knows one tolerance only, for the gradient of whatever loss it is given."""

    accuracy: float = 1e-3

    def __init__(self, accuracy):
        self.step_size, self.rtol, self.atol, self.max_steps = jnp.asarray(0.5), 0.0, 0.0, 20_000
        self.accuracy = accuracy

    def tolerance(self, state, free):
        return jnp.asarray(self.accuracy)


def test_a_beta_below_what_the_inner_accuracy_carries_is_refused():
    # Check 11, second part: gradients of 1e-3 left over, and a nudge of 1e-3 that nothing follows.
    system, cost, train, validation = problem()
    truth = flat(ep.ImplicitDifferentiation(NEWTON)(system, cost, train, validation).gradient)
    for rule in [ep.symmetric, ep.one_sided]:
        lost = ep.EquilibriumPropagation(rule(1e-3), learner(1e-3))(system, cost, train, validation)
        assert not lost.settled.any()
        assert (lost.result == ep.RESULT.nudge_lost).all()
        assert "Raise beta, tighten the solver's" in ep.RESULT[ep.RESULT.nudge_lost]
    # Phases settled to their own displacement: the leftover of the free phase cancels between the two signs ...
    relative = ep.GradientFlow(step_size=0.5, rtol=1e-4, atol=0.0, max_steps=20_000)
    rough = ep.GradientFlow(step_size=0.5, rtol=0.0, atol=1e-3, max_steps=20_000)
    kept = ep.EquilibriumPropagation(ep.symmetric(1e-3), rough, nudged_solver=relative)(system, cost, train, validation)
    assert kept.settled.all()
    assert error(kept, truth) < 0.02
    # ... but not against the free phase itself, where it would be ten times the gradient.
    one = ep.EquilibriumPropagation(ep.one_sided(1e-3), rough, nudged_solver=relative)(system, cost, train, validation)
    assert not one.settled.any()
    # Where the accuracy carries beta, nothing is refused, and the gradient is good.
    for accuracy, beta, bar in [(1e-5, 0.03, 5e-2), (1e-7, 0.01, 1e-2)]:
        for rule in [ep.symmetric, ep.one_sided]:
            good = ep.EquilibriumPropagation(rule(beta), learner(accuracy))(system, cost, train, validation)
            assert good.settled.all()
            assert error(good, truth) < bar, (accuracy, beta, rule)


def test_an_inner_problem_that_does_not_converge_is_reported():
    system, cost, train, validation = problem()
    short = ep.GradientFlow(step_size=0.5, rtol=1e-8, atol=1e-8, max_steps=5)
    estimate = ep.EquilibriumPropagation(ep.symmetric(0.1), short)(system, cost, train, validation)
    assert not estimate.settled.any()
    assert jnp.isnan(estimate.value)
    with pytest.raises(Exception, match=r"Not settled within `max_steps`. Raise `max_steps`"):
        ep.settle(system, jax.tree.map(lambda leaf: leaf[0], train), short)


def test_a_learned_start_is_where_the_learner_begins():
    system = InnerProblem(inner_loss, {"centre": jnp.arange(3.0), "log_strength": jnp.zeros(3)}, lambda h: h["centre"])
    np.testing.assert_array_equal(system.initial_state(None), np.arange(3.0))


def test_nothing_to_learn_is_refused_in_words():
    with pytest.raises(ValueError, match="`hyper` holds no floating-point arrays"):
        InnerProblem(inner_loss, {"order": jnp.asarray(2)}, jnp.zeros(3))
