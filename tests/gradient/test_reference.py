"""The references agree with each other, and refuse what they cannot do."""

import jax
import jax.numpy as jnp
import lineax as lx
import pytest
from tests.systems import Springs, quartic, quartic_batch, relative

import eqprop as ep

COST, NEWTON = ep.SquaredError(), ep.Newton(rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "activations",
    [
        pytest.param({"activation": ep.Logistic()}, marks=pytest.mark.slow),
        pytest.param({"output": ep.HardSigmoid()}, marks=pytest.mark.slow),
        {"skips": [(0, 2), (1, 3)]},
    ],
)
def test_three_truths_agree_on_networks(activations):
    network = ep.LayeredHopfield([4, 5, 4, 2], key=jax.random.key(4), **activations)
    inputs, targets = jax.random.uniform(jax.random.key(1), (4, 4)), jnp.eye(2)[jnp.arange(4) % 2]
    implicit = ep.ImplicitDifferentiation(NEWTON)(network, COST, inputs, targets)
    unrolled = ep.UnrolledDifferentiation(ep.BlockDescent(rtol=1e-9), 150)(network, COST, inputs, targets)
    finite = ep.FiniteDifference(NEWTON, step=1e-5)(network, COST, inputs, targets)
    assert relative(unrolled.gradient, implicit.gradient) < 1e-11
    assert finite.settled.all()
    assert relative(finite.gradient, implicit.gradient) < 1e-7


def test_the_closed_form_of_a_spring():
    k, x, y = jnp.asarray([1.0, 3.0]), jnp.asarray([[0.5, 0.2]]), jnp.asarray([[0.3, -0.1]])
    exact = (x[0] / k - y[0]) * (-x[0] / k**2)
    for truth in (
        ep.ImplicitDifferentiation(NEWTON),
        ep.FiniteDifference(NEWTON),
        ep.UnrolledDifferentiation(ep.GradientFlow(0.3, rtol=1e-14, atol=1e-15), 200),
    ):
        assert jnp.allclose(truth(Springs(k), COST, x, y).gradient.stiffness, exact, rtol=1e-7)


def test_conjugate_gradients_serve_large_states():
    system, (inputs, targets) = quartic(), quartic_batch()
    dense = ep.ImplicitDifferentiation(NEWTON)(system, COST, inputs, targets)
    free = ep.ImplicitDifferentiation(NEWTON, lx.CG(rtol=1e-12, atol=1e-12))(system, COST, inputs, targets)
    assert relative(free.gradient, dense.gradient) < 1e-9


def test_finite_differences_refuse_to_leave_the_branch():
    # A unit that sits exactly at the kink of its activation responds to one sign of the step only.
    network = ep.LayeredHopfield([1, 1, 1], key=jax.random.key(0))
    inputs, targets = jnp.zeros((1, 1)), jnp.ones((1, 1))
    estimate = ep.FiniteDifference(NEWTON)(network, COST, inputs, targets)
    assert (jax.vmap(lambda r: r == ep.RESULT.branch_lost)(estimate.result)).all()


def test_unrolled_differentiation_says_when_the_state_had_not_settled():
    system, (inputs, targets) = quartic(), quartic_batch()
    estimate = ep.UnrolledDifferentiation(ep.GradientFlow(0.1), 3)(system, COST, inputs, targets)
    assert not estimate.settled.any()
    with pytest.raises(ValueError, match="must be at least 1; got 0"):
        ep.UnrolledDifferentiation(ep.GradientFlow(), 0)


def test_implicit_differentiation_reports_a_singular_second_derivative():
    system = Springs(jnp.asarray([1.0, 0.0]))
    flow = ep.GradientFlow(0.5)
    estimate = ep.ImplicitDifferentiation(flow)(system, COST, jnp.asarray([[1.0, 0.0]]), jnp.ones((1, 2)))
    assert (jax.vmap(lambda r: r == ep.RESULT.singular)(estimate.result)).all()
