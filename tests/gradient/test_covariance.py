"""The covariance estimator, against exact enumeration."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.system import CostNudged


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.fixture(scope="module")
def problem():
    net = ep.LayeredBoltzmann(3, (ep.Spins(4), ep.Categorical(1, 3)), key=jax.random.key(0), gain=1.5)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    return net, ep.ErrorRate(), inputs, jnp.asarray([0, 1, 2, 1])


def test_enumerated_it_is_the_limit_of_the_contrast(problem):
    exact = ep.BoltzmannCovariance(ep.Enumeration(0.7))(*problem)
    small = ep.EquilibriumPropagation(ep.richardson(0.02), ep.Enumeration(0.7), CostNudged)(*problem)
    np.testing.assert_allclose(flat(exact.gradient), flat(small.gradient), atol=1e-8)
    assert float(exact.value) == pytest.approx(float(small.value), rel=1e-12)
    difference = ep.FiniteDifference(ep.Enumeration(0.7), 1e-4)(*problem)
    np.testing.assert_allclose(flat(exact.gradient), flat(difference.gradient), atol=1e-8)
    assert exact.standard_error is None


def test_sampled_it_lies_within_its_standard_error_in_95_of_100_seeds(problem):
    exact = flat(ep.BoltzmannCovariance(ep.Enumeration(0.7))(*problem).gradient)
    rule = ep.BoltzmannCovariance(ep.Gibbs(0.7, chains=32, burn_in=20, samples=50))

    @jax.jit
    def run(keys):
        def one(key):
            estimate = rule(*problem, key=key)
            return jax.flatten_util.ravel_pytree((estimate.gradient, estimate.standard_error))[0]

        return jax.lax.map(one, keys)

    gradients, errors = np.split(np.asarray(run(jax.random.split(jax.random.key(3), 100))), 2, axis=1)
    scores = (gradients - exact) / errors
    assert (np.abs(scores) < 2.75).sum(0).min() >= 95  # 99 % of Student's distribution with 31 degrees of freedom
    assert 0.8 < scores.std() < 1.3
    assert np.linalg.norm(errors[0]) < 0.3 * np.linalg.norm(exact)


def test_a_certificate_with_the_covariance_as_truth(problem):
    rule = ep.EquilibriumPropagation(ep.symmetric(0.1), ep.Enumeration(0.7), CostNudged)
    certificate = ep.certify(*problem, rule, truth=ep.BoltzmannCovariance(ep.Enumeration(0.7)))
    assert certificate.ok
    assert certificate.order == pytest.approx(2, abs=0.1)


def test_solvers_without_a_classical_distribution_are_refused():
    with pytest.raises(
        ValueError, match=r"classical Boltzmann distributions only.*got `Newton`.*Thermal quantum states"
    ):
        ep.BoltzmannCovariance(ep.Newton())
