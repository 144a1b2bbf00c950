"""Every solver finds the same rest states, knows whether it did, and says why not."""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.systems import Quartic, Saddle, Springs, quartic, quartic_batch

import eqprop as ep
from eqprop.settle.base import projected_gradient, rms

TIGHT = {"rtol": 1e-11, "atol": 1e-12}
SMOOTH = [
    ep.Newton(**TIGHT),
    ep.GradientFlow(0.2, **TIGHT),
    ep.AdaptiveGradientFlow(**TIGHT),
    ep.AdaptiveGradientFlow(diffrax.Kvaerno5(), **TIGHT),
]
NETWORK = ep.LayeredHopfield([4, 6, 5, 3], key=jax.random.key(0))
LAYERED = [
    ep.Newton(**TIGHT),
    ep.GradientFlow(0.3, **TIGHT, max_steps=5000),
    ep.FixedPoint(**TIGHT),
    ep.BlockDescent(**TIGHT),
    ep.BlockDescent(**TIGHT, relaxation=1.0),
    ep.BlockDescent(**TIGHT, relaxation=1.3),
]


@pytest.mark.parametrize("solver", SMOOTH, ids=lambda s: type(s).__name__)
def test_a_smooth_energy_comes_to_rest(solver):
    system, (inputs, _) = quartic(), quartic_batch()
    equilibrium = ep.settle(system, inputs[0], solver)
    assert equilibrium.settled
    assert rms(jax.grad(system.energy)(equilibrium.state, inputs[0])) < 1e-9
    assert equilibrium.residual < 1e-9
    assert equilibrium.steps > 0


@pytest.mark.parametrize("solver", LAYERED, ids=lambda s: type(s).__name__)
def test_a_network_comes_to_the_same_rest_by_all_solvers(solver):
    inputs = jax.random.uniform(jax.random.key(1), (4,))
    exact = ep.settle(NETWORK, inputs, ep.Newton(rtol=1e-14, atol=1e-14)).state
    equilibrium = ep.settle(NETWORK, inputs, solver)
    assert rms(jax.tree.map(jnp.subtract, equilibrium.state, exact)) < 1e-9
    assert rms(projected_gradient(NETWORK, equilibrium.state, inputs)) < 1e-9


def test_newton_converges_quadratically():
    system, (inputs, _) = quartic(), quartic_batch()
    exact = ep.settle(system, inputs[0], ep.Newton(rtol=1e-15, atol=1e-15)).state
    errors = []
    for steps in range(1, 6):
        rough = ep.settle(system, inputs[0], ep.Newton(rtol=0.0, atol=1e-30, max_steps=steps), throw=False)
        errors.append(float(rms(rough.state - exact)))
    good = [(a, b) for a, b in itertools.pairwise(errors) if a < 0.3 and b > 1e-13]
    assert good
    for before, after in good:
        assert after < 3 * before**2


def test_newton_finds_saddles():
    system, inputs = Saddle(jnp.asarray([2.0, -1.5, 3.0, -2.0])), jnp.asarray([0.3, -0.2, 0.5, 0.1])
    state = ep.settle(system, inputs, ep.Newton(rtol=1e-13, atol=1e-13)).state
    assert jnp.abs(jax.grad(system.energy)(state, inputs)).max() < 1e-12
    assert (np.linalg.eigvalsh(jax.hessian(system.energy)(state, inputs)) < 0).sum() == 2


def test_newton_rests_on_bounds_with_the_right_multipliers():
    network = ep.LayeredHopfield([3, 8, 2], key=jax.random.key(5), gain=1.0)
    inputs = 1.5 * jnp.ones(3)
    state = ep.settle(network, inputs, ep.Newton(rtol=1e-13, atol=1e-13)).state
    slope = jax.grad(network.energy)(state, inputs)[0]
    hidden = state[0]
    assert ((hidden == 0) | (hidden == 1)).any()
    assert ((hidden > 0) & (hidden < 1)).any()
    assert (slope[hidden == 0] >= 0).all()
    assert (slope[hidden == 1] <= 0).all()
    assert jnp.abs(slope[(hidden > 0) & (hidden < 1)]).max() < 1e-12


def test_energy_falls_along_the_gradient_flow():
    system, (inputs, _) = quartic(), quartic_batch()
    energies = []
    for steps in range(1, 40, 3):
        flow = ep.GradientFlow(0.1, rtol=0.0, atol=1e-30, max_steps=steps)
        energies.append(float(system.energy(ep.settle(system, inputs[0], flow, throw=False).state, inputs[0])))
    assert np.all(np.diff(energies) <= 0)


def test_over_relaxation_from_the_measured_contraction_halves_the_sweeps_of_a_strongly_coupled_network():
    network = ep.LayeredHopfield([5, 30, 30, 4], key=jax.random.key(2), gain=0.8, activation=ep.Linear())
    inputs = jax.random.uniform(jax.random.key(3), (5,))
    plain = ep.settle(network, inputs, ep.BlockDescent(**TIGHT, relaxation=1.0, max_steps=5000))
    chosen = ep.settle(network, inputs, ep.BlockDescent(**TIGHT))
    assert 2 * chosen.steps < plain.steps
    assert 1.0 < chosen.stats["relaxation"] <= 1.7


def test_convergence_is_per_example():
    system, (inputs, _) = quartic(), quartic_batch()
    solver = ep.GradientFlow(0.2, **TIGHT)
    batch = jax.vmap(lambda x: ep.settle(system, x, solver))(inputs)
    alone = [ep.settle(system, x, solver) for x in inputs]
    assert batch.steps.tolist() == [int(eq.steps) for eq in alone]
    assert len(set(batch.steps.tolist())) > 1
    assert jnp.allclose(batch.state, jnp.stack([eq.state for eq in alone]), atol=1e-14)


def test_out_of_steps_raises_and_names_the_remedy():
    system, (inputs, _) = quartic(), quartic_batch()
    with pytest.raises(Exception, match="Raise `max_steps`, lower the solver's step"):
        ep.settle(system, inputs[0], ep.GradientFlow(0.1, **TIGHT, max_steps=3))
    quiet = ep.settle(system, inputs[0], ep.GradientFlow(0.1, **TIGHT, max_steps=3), throw=False)
    assert quiet.result == ep.RESULT.max_steps_reached
    assert not quiet.settled


def test_a_flow_that_blows_up_is_diverged_and_never_settled():
    system, (inputs, _) = quartic(), quartic_batch()
    equilibrium = ep.settle(system, 100 * inputs[0], ep.GradientFlow(0.9), throw=False)
    assert equilibrium.result == ep.RESULT.diverged
    assert equilibrium.steps < 100


def test_a_direction_that_costs_nothing_is_singular():
    equilibrium = ep.settle(Springs(jnp.asarray([1.0, 0.0])), jnp.ones(2), ep.Newton(), throw=False)
    assert equilibrium.result == ep.RESULT.singular
    assert "Pin it" in ep.RESULT[ep.RESULT.singular]


def test_a_slow_contraction_is_not_taken_for_rest():
    # Steps shrink by 1 % each: a small step is far from rest. The distance still to go is what is judged.
    system = Springs(jnp.asarray([0.01]))
    equilibrium = ep.settle(system, jnp.asarray([0.01]), ep.FixedPoint(rtol=0.0, atol=1e-3, max_steps=5000))
    assert abs(equilibrium.state[0] - 1) < 2e-3


class Vector(Quartic):
    pass


def test_bad_systems_and_starts_are_refused():
    class Vectorial(Springs):
        def energy(self, state, inputs):
            return self.stiffness * state**2

    with pytest.raises(ValueError, match=r"`Vectorial.energy` must return a scalar for one example; got shape \(2,\)"):
        ep.settle(Vectorial(jnp.ones(2)), jnp.ones(2), ep.Newton())
    with pytest.raises(ValueError, match="declares no blocks, which `BlockDescent` needs"):
        ep.settle(quartic(), jnp.ones(6), ep.BlockDescent())
    with pytest.raises(ValueError, match="cannot keep `LayeredHopfield` within its bounds"):
        ep.settle(NETWORK, jnp.ones(4), ep.AdaptiveGradientFlow())
    with pytest.raises(ValueError, match=r"`BlockDescent.relaxation` must lie in \(0, 2\); got 2.5"):
        ep.BlockDescent(relaxation=2.5)
    outside = jax.tree.map(lambda s: s - 5, NETWORK.initial_state(jnp.ones(4)))
    with pytest.raises(Exception, match="`start` lies outside the bounds of `LayeredHopfield`"):
        ep.settle(NETWORK, jnp.ones(4), ep.BlockDescent(), start=outside)
    with pytest.raises(ValueError, match=r"`inputs` of shape \(5,\) hold 5 numbers; this network has 4 inputs"):
        ep.settle(NETWORK, jnp.ones(5), ep.BlockDescent())


def test_blocks_must_partition_the_state():
    class Overlapping(Springs):
        def blocks(self):
            return (np.array([True, True]), np.array([True, False]))

    with pytest.raises(ValueError, match="must hold every unit of the state exactly once"):
        ep.settle(Overlapping(jnp.ones(2)), jnp.ones(2), ep.BlockDescent())


def test_block_descent_without_declared_minimisers_takes_gradient_over_curvature():
    network = ep.FlowNetwork(
        6, [(0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (2, 5), (2, 4)], jnp.arange(1.0, 8.0), driven=[0, 1], outputs=[4]
    )
    inputs = jnp.asarray([1.0, -2.0])
    exact = ep.settle(network, inputs, ep.Newton(rtol=1e-14, atol=1e-14)).state
    swept = ep.settle(network, inputs, ep.BlockDescent(rtol=1e-13, atol=1e-13))
    assert jnp.abs(swept.state - exact).max() < 1e-12
