"""One-way couplings: the biased rule, its exact correction, and the doubled system, against unrolled reverse mode."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.substrates.field_networks import AsymmetricNetwork, FeedForward

NEWTON = ep.Newton(rtol=1e-12, atol=1e-13)
COST = ep.SquaredError()
INPUTS = jax.random.normal(jax.random.key(1), (4, 3))
TARGETS = 0.3 * jax.random.normal(jax.random.key(2), (4, 2))


def recurrent(gain=0.8):
    return AsymmetricNetwork(3, 8, 2, key=jax.random.key(0), gain=gain)


def feed_forward():
    return FeedForward([3, 6, 5, 2], key=jax.random.key(0))


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])


@jax.jit
def unrolled(network):
    """Reverse mode through 300 steps of the field's own iteration."""

    def one(x, y):
        state, _ = jax.lax.scan(lambda s, _: (s + network.velocity(s, x), None), jnp.zeros(8), length=300)
        return COST(network.output(state), y)

    return jax.vmap(one)(INPUTS, TARGETS).mean()


def backprop(network):
    return flat(
        jax.grad(lambda n: jax.vmap(lambda x, y: COST(n.initial_state(x)[-1], y))(INPUTS, TARGETS).mean())(network)
    )


def compare(estimate, truth):
    got = flat(estimate.gradient)
    return got @ truth / np.linalg.norm(got) / np.linalg.norm(truth), np.linalg.norm(got - truth) / np.linalg.norm(
        truth
    )


def test_the_vector_field_rule_is_biased_and_the_bias_does_not_vanish_with_beta():
    # Check 12: the failure is documented, not hidden. J^-1 stands where the transpose is due.
    network = recurrent()
    truth = flat(jax.grad(unrolled)(network))
    errors = []
    for beta in [0.1, 0.01]:
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), NEWTON, ep.FieldForced)
        cosine, error = compare(propagate(ep.OneWay(network), COST, INPUTS, TARGETS), truth)
        assert cosine < 0.95
        errors.append(error)
    assert errors[1] > 0.99 * errors[0] > 0.3


def test_the_vector_field_rule_is_exact_where_couplings_are_symmetric():
    network = recurrent(0.3)
    linear = eqx.tree_at(
        lambda n: (n.weight, n.activation), network, (0.5 * (network.weight + network.weight.T), ep.Linear())
    )
    truth = flat(jax.grad(unrolled)(linear))
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON, ep.FieldForced)
    assert compare(propagate(ep.OneWay(linear), COST, INPUTS, TARGETS), truth)[1] < 1e-9


def test_the_antisymmetric_force_makes_it_exact_at_second_order():
    network = recurrent()
    truth = flat(jax.grad(unrolled)(network))
    betas, errors = np.array([0.2, 0.1, 0.05]), []
    for beta in betas:
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), NEWTON, ep.AntisymmetricForced)
        errors.append(compare(propagate(ep.OneWay(network), COST, INPUTS, TARGETS), truth)[1])
    assert abs(np.polyfit(np.log(betas), np.log(errors), 1)[0] - 2) < 0.05, errors
    assert errors[2] < 1e-3


def test_one_nudged_phase_of_the_doubled_system():
    network = recurrent()
    truth = flat(jax.grad(unrolled)(network))
    doubled = ep.Doubled(network)
    betas, errors = np.array([0.2, 0.1, 0.05]), []
    for beta in betas:
        # Nudged at the mean: exact at every beta, however large.
        exact = ep.OnePhase(beta, NEWTON)(doubled, COST, INPUTS, TARGETS)
        assert exact.settled.all()
        assert compare(exact, truth)[1] < 1e-12
        errors.append(compare(ep.OnePhase(beta, NEWTON, ep.Dyads)(doubled, COST, INPUTS, TARGETS), truth)[1])
    assert abs(np.polyfit(np.log(betas), np.log(errors), 1)[0] - 2) < 0.05, errors
    assert errors[2] < 1e-3


def test_the_doubled_flow_settles_what_newton_settles():
    doubled = ep.Doubled(recurrent())
    flow = ep.OnePhase(0.1, ep.DoubledFlow(step_size=0.7, rtol=1e-11), ep.Dyads)(doubled, COST, INPUTS, TARGETS)
    newton = ep.OnePhase(0.1, NEWTON, ep.Dyads)(doubled, COST, INPUTS, TARGETS)
    assert flow.settled.all()
    np.testing.assert_allclose(flat(flow.gradient), flat(newton.gradient), rtol=1e-7, atol=1e-12)


def test_a_feed_forward_network_settles_in_as_many_steps_as_layers_and_learns_as_by_backprop():
    network = feed_forward()
    truth = backprop(network)
    exact = ep.OnePhase(0.05, ep.DoubledFlow(rtol=1e-12))(ep.Doubled(network), COST, INPUTS, TARGETS)
    assert exact.settled.all()
    assert int(exact.free.steps.max()) <= len(network.weights) + 1
    assert compare(exact, truth)[1] < 1e-13
    cosine, error = compare(
        ep.OnePhase(0.05, ep.DoubledFlow(rtol=1e-10), ep.Dyads)(ep.Doubled(network), COST, INPUTS, TARGETS), truth
    )
    assert cosine > 0.99999
    assert error < 2e-3


def test_a_feed_forward_network_is_where_the_vector_field_rule_fails_most():
    one_way = ep.OneWay(feed_forward())
    truth = backprop(feed_forward())
    biased = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON, ep.FieldForced)(one_way, COST, INPUTS, TARGETS)
    exact = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON, ep.AntisymmetricForced)(
        one_way, COST, INPUTS, TARGETS
    )
    assert compare(biased, truth)[0] < 0.95
    assert compare(exact, truth)[1] < 1e-4
    # Not even the sign of a hidden weight's gradient is measured: nothing flows back.
    assert float(jnp.abs(biased.gradient.field.weights[0]).max()) < 1e-12
    assert float(jnp.abs(exact.gradient.field.weights[0]).max()) > 1e-3


def test_certificates_tell_the_biased_rule_from_the_exact_one():
    one_way = ep.OneWay(recurrent())
    refused = ep.certify(
        one_way, COST, INPUTS, TARGETS, ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON, ep.FieldForced)
    )
    assert not refused.ok
    assert "that the system is a scalar's (reciprocal)" in str(refused)
    given = ep.certify(
        one_way, COST, INPUTS, TARGETS, ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON, ep.AntisymmetricForced)
    )
    assert given.ok, str(given)
    assert abs(given.order - 2) < 0.05
    assert ep.certify(ep.Doubled(recurrent()), COST, INPUTS, TARGETS, ep.OnePhase(0.1, NEWTON)).ok


def test_implicit_differentiation_is_right_for_one_way_fields():
    network = recurrent()
    estimate = ep.ImplicitDifferentiation(NEWTON)(ep.OneWay(network), COST, INPUTS, TARGETS)
    assert compare(estimate, flat(jax.grad(unrolled)(network)))[1] < 1e-12


def test_wrong_combinations_are_refused_in_words():
    one_way, doubled = ep.OneWay(recurrent()), ep.Doubled(recurrent())
    with pytest.raises(ValueError, match="A one-way field has no energy whose contrast would be a gradient"):
        ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON)(one_way, COST, INPUTS, TARGETS)
    with pytest.raises(ValueError, match="`AntisymmetricForced` nudges a `OneWay` field; got `Doubled`"):
        ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON, ep.AntisymmetricForced)(doubled, COST, INPUTS, TARGETS)
    with pytest.raises(ValueError, match="`OneWay` does not declare `free_vanishes`"):
        ep.OnePhase(0.1, NEWTON)(one_way, COST, INPUTS, TARGETS)
    with pytest.raises(ValueError, match="no free phase from which `Forced` could take its force"):
        ep.OnePhase(0.1, NEWTON, ep.Forced)
    with pytest.raises(ValueError, match="two copies of a `Doubled` system; got `OneWay`"):
        ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON, ep.Dyads)(one_way, COST, INPUTS, TARGETS)
    with pytest.raises(ValueError, match="settles doubled systems, whose state is a pair of trees alike"):
        ep.settle(one_way, INPUTS[0], ep.DoubledFlow())
    with pytest.raises(ValueError, match="must be finite and not zero; got beta = 0"):
        ep.OnePhase(0.0, NEWTON)
    with pytest.raises(ValueError, match="`outputs` must lie between 1 and the 4 units; got 5"):
        AsymmetricNetwork(3, 4, 5, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`sizes` must name inputs and at least one layer"):
        FeedForward([3], key=jax.random.key(0))
