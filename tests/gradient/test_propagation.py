"""Equilibrium propagation against the truth: the theorems of theory, row by row."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from tests.systems import Quartic, Saddle, Springs, flat, quartic, quartic_batch, relative

import eqprop as ep

NEWTON = ep.Newton(rtol=1e-13, atol=1e-14)
COST = ep.SquaredError()


@eqx.filter_jit
def optimistix_gradient(system, inputs, targets):
    """An independent truth: optimistix' root finder with its implicit adjoint, differentiated by JAX."""
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)

    def loss(parameters):
        def one(x, y):
            def slope(state, args):
                parameters, x = args
                return jax.grad(eqx.combine(parameters, rest).energy)(state, x)

            found = optx.root_find(slope, optx.Newton(1e-12, 1e-12), jnp.zeros_like(x), args=(parameters, x))
            return COST(found.value, y)

        return jnp.mean(jax.vmap(one)(inputs, targets))

    return jax.grad(loss)(parameters)


def test_gradient_theorem_on_random_smooth_energies():
    system, (inputs, targets) = quartic(14, 1), quartic_batch(14, seed=11)
    truth = optimistix_gradient(system, inputs, targets)
    estimate = ep.EquilibriumPropagation(ep.holomorphic(0.05, points=8), NEWTON)(system, COST, inputs, targets)
    assert relative(estimate.gradient, truth) < 1e-9
    implicit = ep.ImplicitDifferentiation(NEWTON)(system, COST, inputs, targets)
    assert relative(implicit.gradient, truth) < 1e-9


@pytest.mark.parametrize(("beta", "symmetric"), [(0.5, False), (-0.2, False), (0.5, True)])
def test_at_any_beta_the_estimate_is_the_gradient_of_a_surrogate(beta, symmetric):
    # The one-sided estimate is the exact gradient of (F*(beta) - F*(0)) / beta, the symmetric one of its odd part.
    system, (inputs, targets) = quartic(), quartic_batch(size=3)
    rule = ep.symmetric(beta) if symmetric else ep.one_sided(beta)
    estimate = ep.EquilibriumPropagation(rule, NEWTON, nudge=ep.CostNudged)(system, COST, inputs, targets)

    @jax.jit
    def value(system, beta):
        def one(x, y):
            nudged = ep.CostNudged(system, COST, y, None, beta)
            return nudged.energy(ep.settle(nudged, x, NEWTON).state, x)

        return jnp.mean(jax.vmap(one)(inputs, targets))

    def surrogate(system):
        low = -beta if symmetric else 0.0
        return (value(system, jnp.asarray(beta)) - value(system, jnp.asarray(low))) / (beta - low)

    step, vector = 1e-5, jax.random.normal(jax.random.key(3), flat(system).shape)
    unravel = jax.flatten_util.ravel_pytree(system)[1]
    up, down = (surrogate(unravel(flat(system) + sign * step * vector)) for sign in (1, -1))
    slope = (up - down) / (2 * step)
    assert abs(slope - flat(estimate.gradient) @ vector) < 1e-7 * abs(slope)


def test_random_sign_averages_to_the_symmetric_rule():
    system, (inputs, targets) = quartic(), quartic_batch()
    both = [ep.EquilibriumPropagation(ep.one_sided(b), NEWTON)(system, COST, inputs, targets) for b in (0.1, -0.1)]
    mean = 0.5 * (flat(both[0].gradient) + flat(both[1].gradient))
    symmetric = ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON)(system, COST, inputs, targets)
    assert jnp.abs(mean - flat(symmetric.gradient)).max() < 1e-11
    drawn = ep.EquilibriumPropagation(ep.random_sign(0.1), NEWTON)
    seen = {
        round(float(flat(drawn(system, COST, inputs, targets, key=jax.random.key(i)).gradient)[0]), 9) for i in range(8)
    }
    assert seen == {round(float(flat(e.gradient)[0]), 9) for e in both}


def test_random_sign_asks_for_a_key():
    system, (inputs, targets) = quartic(), quartic_batch()
    with pytest.raises(ValueError, match=r"call the estimator with `key=jax.random.key"):
        ep.EquilibriumPropagation(ep.random_sign(0.1), NEWTON)(system, COST, inputs, targets)


def test_stationary_is_enough_saddles_and_maxima_learn_too():
    inputs, targets = quartic_batch(5, 4)
    for curvature in ([2.0, -1.5, 3.0, -2.0, 1.0], [-2.0, -1.5, -3.0, -2.0, -1.0]):
        system = Saddle(jnp.asarray(curvature))
        state = ep.settle(system, inputs[0], NEWTON).state
        eigenvalues = np.linalg.eigvalsh(jax.hessian(system.energy)(state, inputs[0]))
        assert (eigenvalues < 0).sum() >= 2
        estimate = ep.EquilibriumPropagation(ep.richardson(0.01), NEWTON)(system, COST, inputs, targets)
        assert relative(estimate.gradient, optimistix_gradient(system, inputs, targets)) < 1e-6


def test_gradient_of_a_parameter_uses_its_own_term_only():
    # A sum of systems: what the other term is does not matter, as long as the states are the same.
    class Unknown(Springs):
        pass

    inputs, targets = jnp.asarray([[0.6, -0.4]]), jnp.asarray([[0.1, 0.2]])
    spring, other = Springs(jnp.asarray([1.0, 2.0])), Springs(jnp.asarray([0.5, 0.5]))
    both = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON)(spring + other, COST, inputs, targets)
    hidden = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON)(
        spring + Unknown(jnp.asarray([0.5, 0.5])), COST, inputs, targets
    )
    assert (both.gradient.terms[0].stiffness == hidden.gradient.terms[0].stiffness).all()
    # Both terms count the inputs, so s = 2x / k: the closed form of d/dk of (s - y)^2 / 2.
    k, x, y = jnp.asarray([1.5, 2.5]), 2 * inputs[0], targets[0]
    assert jnp.allclose(both.gradient.terms[0].stiffness, (x / k - y) * (-x / k**2), rtol=1e-12)


def test_forced_symmetric_nudges_are_exact_on_quadratic_energies():
    system, inputs, targets = Springs(jnp.asarray([1.0, 3.0])), jnp.asarray([[0.5, 0.2]]), jnp.asarray([[0.3, -0.1]])
    estimate = ep.EquilibriumPropagation(ep.symmetric(0.7), NEWTON)(system, COST, inputs, targets)
    k, x, y = system.stiffness, inputs[0], targets[0]
    assert jnp.allclose(estimate.gradient.stiffness, (x / k - y) * (-x / k**2), rtol=1e-13)
    assert jnp.allclose(estimate.value, 0.5 * jnp.sum((x / k - y) ** 2), rtol=1e-14)


@pytest.mark.parametrize("nudge", [ep.Forced, ep.CostNudged])
def test_readout_weights_that_live_in_the_output_get_their_direct_gradient(nudge):
    network = ep.LayeredHopfield([5, 7, 4], key=jax.random.key(0), activation=ep.Tanh(), softmax=True)
    inputs, labels = jax.random.uniform(jax.random.key(1), (6, 5)), jnp.arange(6) % 4
    truth = ep.ImplicitDifferentiation(NEWTON)(network, ep.CrossEntropy(), inputs, labels)

    def error(beta):
        estimate = ep.EquilibriumPropagation(ep.symmetric(beta), NEWTON, nudge=nudge)(
            network, ep.CrossEntropy(), inputs, labels
        )
        return relative(estimate.gradient.readout, truth.gradient.readout), relative(estimate.gradient, truth.gradient)

    (readout, whole), (half, _) = error(0.02), error(0.01)
    assert readout < 1e-2
    assert whole < 1e-2
    if readout > 1e-9:
        assert abs(np.log2(readout / half) - 2) < 0.1


def test_examples_that_do_not_settle_are_named_and_left_out():
    system = quartic()
    inputs, targets = quartic_batch(size=4)
    hard = inputs.at[2].multiply(1e4)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), ep.Newton(rtol=1e-12, atol=1e-12, max_steps=7))
    estimate = propagate(system, COST, hard, targets)
    assert estimate.settled.tolist() == [True, True, False, True]
    others = propagate(system, COST, jnp.delete(hard, 2, axis=0), jnp.delete(targets, 2, axis=0))
    assert relative(estimate.gradient, others.gradient) < 1e-12
    assert jnp.allclose(estimate.value, others.value)


def test_a_state_that_diverges_does_not_poison_the_gradient():
    class Runaway(Quartic):
        pass

    system = quartic()
    inputs, targets = quartic_batch(size=3)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), ep.GradientFlow(0.2, rtol=1e-10, atol=1e-10))
    estimate = propagate(system, COST, inputs.at[1].multiply(1e6), targets)
    assert estimate.settled.tolist() == [True, False, True]
    assert jax.vmap(lambda r: r == ep.RESULT.diverged)(estimate.result).tolist() == [False, True, False]
    assert jnp.isfinite(flat(estimate.gradient)).all()


def test_a_batch_in_chunks_has_the_gradient_of_the_whole():
    system = quartic()
    inputs, targets = quartic_batch(size=7)
    inputs = inputs.at[4].multiply(1e4)  # does not settle
    solver = ep.Newton(rtol=1e-12, atol=1e-12, max_steps=7)
    whole = ep.EquilibriumPropagation(ep.symmetric(0.05), solver)(system, COST, inputs, targets)
    assert whole.settled.tolist() == [True] * 4 + [False] + [True] * 2
    for chunk in (3, 50):  # two chunks and one example over; more than there are
        parts = ep.EquilibriumPropagation(ep.symmetric(0.05), solver, chunk=chunk)(system, COST, inputs, targets)
        assert relative(parts.gradient, whole.gradient) < 1e-13
        np.testing.assert_array_equal(parts.settled, whole.settled)
        np.testing.assert_allclose(parts.nudged.state, whole.nudged.state, rtol=1e-12)
        assert parts.value == pytest.approx(float(whole.value), rel=1e-13)
    with pytest.raises(ValueError, match="`chunk` must be a positive whole number of examples; got 0"):
        ep.EquilibriumPropagation(ep.symmetric(0.05), solver, chunk=0)


def test_an_energy_that_is_infinite_at_zero_is_not_evaluated_there():
    class Barrier(ep.System):
        stiffness: jax.Array

        def energy(self, state, inputs):
            return jnp.sum(self.stiffness * (state - jnp.log(state))) - jnp.sum(inputs * jnp.log(state))

        def initial_state(self, inputs):
            return jnp.ones_like(inputs)

    system, inputs, targets = Barrier(jnp.ones(3)), jnp.full((3, 3), 0.5), jnp.full((3, 3), 1.2)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.01), ep.Newton(rtol=1e-12, atol=1e-12, max_steps=9))
    estimate = propagate(system, COST, inputs.at[1].set(-1.0 + 1e-12), targets)
    assert estimate.settled.tolist() == [True, False, True]
    others = propagate(system, COST, inputs[::2], targets[::2])
    assert relative(estimate.gradient, others.gradient) < 1e-12


@pytest.mark.parametrize("accuracy", [1e-4, 1e-6])
@pytest.mark.parametrize("beta", [1e-3, 1e-4, 1e-6])
def test_a_one_sided_nudge_weaker_than_what_the_free_phase_left_undone_is_lost(accuracy, beta):
    system, (inputs, targets) = quartic(14, 1), quartic_batch(14, seed=11)
    propagate = ep.EquilibriumPropagation(ep.one_sided(beta), ep.GradientFlow(0.1, rtol=accuracy, atol=1e-9))
    estimate = propagate(system, COST, inputs, targets)
    if beta > accuracy:
        assert relative(estimate.gradient, optimistix_gradient(system, inputs, targets)) < 0.2
    else:
        assert jax.vmap(lambda r: r == ep.RESULT.nudge_lost)(estimate.result).all()


def test_a_nudge_that_moves_nothing_is_told_apart_from_a_zero_force():
    system, (inputs, targets) = quartic(), quartic_batch()
    tiny = ep.EquilibriumPropagation(ep.symmetric(1e-19), NEWTON)(system, COST, inputs, targets)
    assert jax.vmap(lambda r: r == ep.RESULT.nudge_lost)(tiny.result).all()
    assert "Raise beta" in ep.RESULT[ep.RESULT.nudge_lost]
    free = jax.vmap(lambda x: ep.settle(system, x, NEWTON).state)(inputs)
    content = ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON)(system, COST, inputs, free)
    assert content.settled.all()
    assert jnp.abs(flat(content.gradient)).max() < 1e-11


def test_complex_nudges_are_refused_unless_the_energy_says_it_is_holomorphic():
    network = ep.LayeredHopfield([3, 4, 2], key=jax.random.key(0))
    propagate = ep.EquilibriumPropagation(ep.holomorphic(0.1), NEWTON)
    with pytest.raises(ValueError, match="does not declare that its energy is holomorphic"):
        propagate(network, COST, jnp.ones((2, 3)), jnp.ones((2, 2)))


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (jnp.ones((3, 6)), jnp.ones((2, 6)), "must share their leading axis"),
        (jnp.ones((0, 6)), jnp.ones((0, 6)), "The batch is empty"),
        (jnp.ones(()), jnp.ones(()), "must share their leading axis"),
        (
            jnp.ones((2, 6)).at[1, 3].set(jnp.nan),
            jnp.ones((2, 6)),
            "`inputs` holds NaN or infinity, first in example 1",
        ),
        (
            jnp.ones((2, 6)),
            jnp.ones((2, 6)).at[0, 0].set(jnp.inf),
            "`targets` holds NaN or infinity, first in example 0",
        ),
        (jnp.ones((2, 6)), jnp.ones((2, 5)), "do not fit the output of shape"),
    ],
)
def test_bad_batches_are_refused_by_name(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        ep.EquilibriumPropagation(ep.symmetric(0.1), NEWTON)(quartic(), COST, inputs, targets)


def test_class_labels_must_fit_the_cost():
    network = ep.LayeredHopfield([3, 4, 2], key=jax.random.key(0), softmax=True)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), ep.BlockDescent())
    with pytest.raises(ValueError, match="must be a scalar per example"):
        propagate(network, ep.CrossEntropy(), jnp.ones((2, 3)), jnp.ones((2, 2), int))
    with pytest.raises(ValueError, match="do not fit 2 labels"):
        propagate(network, ep.CrossEntropy(), jnp.ones((2, 3)), jnp.ones((2, 3)))


@pytest.mark.parametrize("beta", [0.0, float("nan"), float("inf")])
def test_beta_must_be_finite_and_not_zero(beta):
    with pytest.raises(ValueError, match="must be finite and not zero; got beta"):
        ep.symmetric(beta)
