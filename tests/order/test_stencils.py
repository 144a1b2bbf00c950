"""Orders of convergence of the stencils, by slope and by size."""

import jax.numpy as jnp
import numpy as np
import pytest
from tests.systems import quartic, quartic_batch, relative

import eqprop as ep

NEWTON = ep.Newton(rtol=1e-14, atol=1e-15)
RULES = [
    (ep.one_sided, 1, 3e-2),
    (lambda beta: ep.one_sided(-beta), 1, 3e-2),
    (ep.symmetric, 2, 1e-3),
    (ep.richardson, 4, 1e-5),
    (lambda beta: ep.holomorphic(beta, points=4), 4, 1e-4),
    (lambda beta: ep.holomorphic(beta, points=6), 6, 1e-6),
]


@pytest.mark.parametrize("rule", [ep.one_sided, ep.symmetric, ep.richardson, ep.holomorphic])
def test_a_table_differentiates_at_its_declared_order(rule):
    # One spring: s(beta) = (x + beta y) / (k + beta) and dE/dk = s**2 / 2, so d/dbeta at 0 is known.
    k, x, y = 2.0, 0.6, 0.1
    exact = (x / k - y) * (-x / k**2)

    def error(beta):
        stencil = rule(beta)
        rest = (x + stencil.nodes * y) / (k + stencil.nodes)
        return abs(float(jnp.sum(stencil.weights * rest**2 / 2).real) - exact)

    betas = np.geomspace(0.02, 0.2, 5)
    slope = np.polyfit(np.log(betas), np.log([error(b) for b in betas]), 1)[0]
    assert abs(slope - rule(0.1).order) < 0.1
    assert error(0.02) < 1e-3


@pytest.mark.parametrize("nudge", [ep.Forced, ep.CostNudged])
@pytest.mark.parametrize(("rule", "order", "size"), RULES)
def test_an_estimate_converges_at_the_order_of_its_stencil(rule, order, size, nudge):
    system, (inputs, targets), cost = quartic(), quartic_batch(), ep.SquaredError()
    truth = ep.ImplicitDifferentiation(NEWTON)(system, cost, inputs, targets)

    def error(beta):
        estimate = ep.EquilibriumPropagation(rule(beta), NEWTON, nudge=nudge)(system, cost, inputs, targets)
        assert estimate.settled.all()
        return relative(estimate.gradient, truth.gradient)

    betas = np.geomspace(0.05, 0.4, 4)
    errors = [error(b) for b in betas]
    slope = np.polyfit(np.log(betas), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.15
    assert errors[0] < size


def test_weights_of_all_tables_sum_to_zero_and_to_one_with_the_nodes():
    for rule in (ep.one_sided, ep.symmetric, ep.richardson, ep.holomorphic):
        stencil = rule(0.3)
        assert abs(jnp.sum(stencil.weights)) < 1e-12
        assert abs(jnp.sum(stencil.weights * stencil.nodes) - 1) < 1e-12


@pytest.mark.parametrize(
    ("rule", "order", "size"), [(ep.symmetric, 2, 1e-3), (lambda beta: ep.holomorphic(beta, points=8), 8, 1e-10)]
)
def test_fourteen_coupled_states_at_the_bars_of_slope_and_size(rule, order, size):
    system, (inputs, targets), cost = quartic(14), quartic_batch(14), ep.SquaredError()
    truth = ep.ImplicitDifferentiation(NEWTON)(system, cost, inputs, targets)

    def error(beta):
        estimate = ep.EquilibriumPropagation(rule(beta), NEWTON, ep.CostNudged)(system, cost, inputs, targets)
        assert estimate.settled.all()
        return relative(estimate.gradient, truth.gradient)

    # Eighth order falls below rounding at smaller nudges.
    betas = [0.1, 0.2] if order == 2 else [0.2, 0.4]
    errors = [error(b) for b in betas]
    assert abs(np.log2(errors[1] / errors[0]) - order) < (0.1 if order == 2 else 0.2)
    assert error(0.05) < size
