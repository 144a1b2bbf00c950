"""The dead zone of spins at low temperature: wrong, and no contrast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.system import CostNudged

INPUTS = jnp.asarray([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
TARGETS = jnp.asarray([[-1.0], [1.0], [1.0], [-1.0]])
EDGES = [(i, h) for i in (0, 1) for h in (2, 3, 4, 5)] + [(h, 6) for h in (2, 3, 4, 5)]


@pytest.fixture(scope="module")
def model():
    return ep.Ising(2, 5, EDGES, [6], key=jax.random.key(3), gain=3.0)


def estimate(model, solver, beta, key=None):
    return ep.EquilibriumPropagation(ep.one_sided(beta), solver, CostNudged)(
        model, ep.SquaredError(), INPUTS, TARGETS, key=key
    )


def wrong(found):
    return jnp.sign(found.outputs[:, 0]) != TARGETS[:, 0]


def test_a_weak_nudge_at_low_temperature_moves_nothing_and_is_counted(model):
    found = estimate(model, ep.Enumeration(0.02), 0.05)
    zone = ep.dead_zone(found, wrong(found))
    assert int(zone.wrong) > 0
    assert int(zone.dead) == int(zone.wrong)
    assert all(float(jnp.abs(g).max()) < 1e-12 for g in jax.tree.leaves(found.gradient))
    assert f"{int(zone.dead)} of {int(zone.wrong)} wrong answers gave zero contrast" in str(zone)
    assert "Raise beta (it is a margin" in str(zone)
    np.testing.assert_array_equal(zone.examples, wrong(found))


@pytest.mark.parametrize(("temperature", "beta"), [(0.02, 50.0), (1.0, 0.05)])
def test_a_margin_or_a_temperature_brings_the_contrast_back(model, temperature, beta):
    found = estimate(model, ep.Enumeration(temperature), beta)
    zone = ep.dead_zone(found, wrong(found))
    assert int(zone.wrong) > 0
    assert int(zone.dead) == 0
    assert str(zone).endswith("zero contrast.")
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found.gradient)) > 1e-3


def test_samples_tell_the_dead_zone_too(model):
    sampler = ep.Gibbs(0.02, chains=4, burn_in=40, samples=4, hottest=3.0)
    cold = estimate(model, sampler, 0.05, jax.random.key(1))
    assert int(ep.dead_zone(cold, wrong(cold)).dead) > 0
    strong = estimate(model, sampler, 50.0, jax.random.key(1))
    assert int(ep.dead_zone(strong, wrong(strong)).dead) == 0


def test_single_rest_states_have_no_dead_zone_to_count():
    net = ep.LayeredHopfield([2, 3, 1], key=jax.random.key(0))
    found = ep.EquilibriumPropagation(ep.symmetric(0.1), ep.Newton())(net, ep.SquaredError(), INPUTS, TARGETS)
    with pytest.raises(ValueError, match=r"`dead_zone` needs an estimate from phases that are ensembles"):
        ep.dead_zone(found, jnp.ones(4, bool))
