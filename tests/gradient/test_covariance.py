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


def test_sampled_it_lies_within_its_standard_error(problem):
    exact = flat(ep.BoltzmannCovariance(ep.Enumeration(0.7))(*problem).gradient)
    sampler = ep.Gibbs(0.7, chains=32, burn_in=20, samples=100)
    estimate = ep.BoltzmannCovariance(sampler)(*problem, key=jax.random.key(3))
    scores = (flat(estimate.gradient) - exact) / flat(estimate.standard_error)
    assert np.abs(scores).max() < 4.5
    assert 0.5 < scores.std() < 1.6
    assert np.linalg.norm(flat(estimate.standard_error)) < 0.2 * np.linalg.norm(exact)


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
