"""Oscillators: gradients against implicit differentiation, exact small cases, branches, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.substrates.oscillators import LayeredOscillators, OscillatorGraph

UNITS = 7
NEWTON = ep.Newton(rtol=1e-12, atol=1e-13)


def graph(kind):
    random = np.random.default_rng(3)
    edges = [(i, j) for j in range(UNITS) for i in range(j) if random.random() < 0.6]
    coupling = jnp.asarray(random.normal(size=len(edges)))
    fields = {"driven": (0, 1, 2), "field": jnp.asarray([1.0, 0.8, 1.2]), "outputs": (5, 6)}
    if kind == "xy":
        return OscillatorGraph(UNITS, edges, coupling, **fields)
    if kind == "ising machine":
        return OscillatorGraph(UNITS, edges, coupling, harmonic=jnp.full(UNITS, 1.5), **fields)
    frequency = jnp.asarray(0.3 * random.normal(size=UNITS))
    return OscillatorGraph(UNITS, edges, jnp.abs(coupling) + 0.5, frequency=frequency, pinned={0: 0.0}, outputs=(5, 6))


def batch(system):
    random = np.random.default_rng(4)
    inputs = jnp.asarray(random.normal(size=(2, len(system.driven))))
    return inputs, jnp.asarray(random.normal(size=(2, 2)))


@pytest.mark.parametrize(
    "kind", ["ising machine", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("xy", "kuramoto"))]
)
def test_symmetric_nudging_is_second_order_in_every_parameter(kind):
    # Check 9 of the acceptance list: couplings, fields, second harmonics and natural frequencies.
    system = graph(kind)
    inputs, targets = batch(system)
    free = jax.vmap(lambda x: ep.settle(system, x, ep.Polished()).state)(inputs)
    truth = ep.ImplicitDifferentiation(NEWTON)(system, ep.PhaseError(), inputs, targets, start=free).gradient
    for name in ["coupling", "field", "harmonic", "frequency"]:
        wanted = getattr(truth, name)
        if wanted is None or wanted.size == 0:
            continue
        errors = []
        betas = np.array([0.1, 0.05, 0.025])
        for beta in betas:
            propagate = ep.EquilibriumPropagation(ep.symmetric(beta), NEWTON)
            estimate = propagate(system, ep.PhaseError(), inputs, targets, start=free)
            assert estimate.settled.all()
            got = getattr(estimate.gradient, name)
            errors.append(float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted)))
        slope = np.polyfit(np.log(betas), np.log(errors), 1)[0]
        assert abs(slope - 2) < 0.05, (name, errors)
        assert errors[1] < 5e-3, (name, errors)


def test_the_truth_itself_agrees_with_finite_differences():
    system = graph("kuramoto")
    inputs, targets = batch(system)
    free = jax.vmap(lambda x: ep.settle(system, x, ep.Polished()).state)(inputs)
    truth = ep.ImplicitDifferentiation(NEWTON)(system, ep.PhaseError(), inputs, targets, start=free)
    differences = ep.FiniteDifference(NEWTON, step=1e-5)(system, ep.PhaseError(), inputs, targets, start=free)
    assert differences.settled.all()
    np.testing.assert_allclose(truth.gradient.frequency, differences.gradient.frequency, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(truth.gradient.coupling, differences.gradient.coupling, rtol=1e-6, atol=1e-9)


def test_block_descent_reaches_the_same_minimum_as_newton():
    for kind in ["xy", "kuramoto"]:
        system = graph(kind)
        inputs = batch(system)[0][0]
        block = ep.settle(system, inputs, ep.BlockDescent(rtol=1e-13, atol=1e-13, max_steps=5000, relaxation=1.0))
        again = ep.settle(system, inputs, NEWTON, start=block.state)
        np.testing.assert_allclose(block.state, again.state, atol=1e-9)
        curvature = jax.hessian(system.energy)(block.state, inputs)
        assert np.linalg.eigvalsh(curvature).min() > 0


def test_two_kuramoto_oscillators_lock_at_the_arcsine():
    # J sin(phi_1 - phi_0) = (omega_1 - omega_0) / 2 with phi_0 pinned.
    frequency = jnp.asarray([0.1, 0.9])
    pair = OscillatorGraph(2, [(0, 1)], jnp.asarray([1.0]), frequency=frequency, pinned={0: 0.0})
    for solver in [ep.Polished(), ep.BlockDescent(rtol=1e-12, atol=1e-12, relaxation=1.0)]:
        state = ep.settle(pair, jnp.zeros(0), solver).state
        assert float(state[0]) == pytest.approx(np.arcsin(0.4), abs=1e-11)


def test_oscillators_that_cannot_lock_do_not_settle():
    frequency = jnp.asarray([0.0, 3.0])
    pair = OscillatorGraph(2, [(0, 1)], jnp.asarray([1.0]), frequency=frequency, pinned={0: 0.0})
    for solver in [ep.BlockDescent(relaxation=1.0), ep.GradientFlow(step_size=0.1)]:
        assert not ep.settle(pair, jnp.zeros(0), solver, throw=False).settled


def test_the_cost_and_its_gradient_do_not_see_full_turns():
    system = graph("xy")
    inputs, targets = batch(system)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), ep.Polished(), nudged_solver=NEWTON)
    here = propagate(system, ep.PhaseError(), inputs, targets)
    turned = propagate(system, ep.PhaseError(), inputs, targets + 2 * np.pi)
    np.testing.assert_allclose(here.gradient.coupling, turned.gradient.coupling, rtol=1e-9, atol=1e-13)
    assert ep.PhaseError()(jnp.asarray([np.pi]), jnp.asarray([0.0])) == pytest.approx(2.0)


def test_branches_are_told_apart_and_warm_starts_keep_to_theirs():
    system = graph("ising machine")
    inputs, targets = batch(system)
    starts = jax.random.uniform(jax.random.key(0), (30, UNITS), minval=-np.pi, maxval=np.pi)
    found = ep.branches(system, inputs[0], ep.Polished(), starts, period=2 * np.pi)
    assert len(found.counts) > 3
    assert found.unsettled == 0
    assert found.counts.sum() == 30
    assert (np.diff(found.energies) >= 0).all()
    for k, state in enumerate(found.states):
        assert float(system.energy(state, inputs[0])) == pytest.approx(found.energies[k])
        assert np.linalg.eigvalsh(jax.hessian(system.energy)(state, inputs[0])).min() > 0
    # A state turned by a full turn is the same branch; one elsewhere is on none.
    assert found.index(found.states[1] + 2 * np.pi) == 1
    assert found.index(found.states[0] + 0.3) is None
    assert str(found).startswith(f"{len(found.counts)} rest states from 30 starts")

    def one_leg_cold(system, cost, targets, free, beta):
        return ep.CostNudged(system, cost, targets, free, beta)

    free = jnp.stack([found.states[0], found.states[0]])
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), NEWTON, one_leg_cold)
    estimate = propagate(system, ep.PhaseError(), jnp.stack([inputs[0]] * 2), targets, start=free)
    held = ep.held(system, jnp.stack([inputs[0]] * 2), ep.Polished(), estimate.free, estimate.nudged, period=2 * np.pi)
    assert held.shape == (2, 2)
    assert held.all()
    # The same question of phases that are moved to another branch.
    lost = jax.tree.map(lambda leaf: leaf, estimate.nudged.state).at[:, 0].set(found.states[1])
    moved = ep.Equilibrium(lost, estimate.nudged.result, estimate.nudged.residual, estimate.nudged.steps)
    answer = ep.held(system, jnp.stack([inputs[0]] * 2), ep.Polished(), estimate.free, moved, period=2 * np.pi)
    np.testing.assert_array_equal(answer, [[False, True], [False, True]])


def test_cold_started_legs_pick_other_branches_and_are_wrong():
    # What warm starts are for: legs settled from unrelated starts contrast different minima.
    system = graph("ising machine")
    inputs, targets = batch(system)
    one, wanted = inputs[:1], targets[:1]
    starts = jax.random.uniform(jax.random.key(0), (3, UNITS), minval=-np.pi, maxval=np.pi)
    free = ep.settle(system, one[0], ep.Polished(), start=starts[0])
    truth = ep.ImplicitDifferentiation(NEWTON)(system, ep.PhaseError(), one, wanted, start=free.state[None]).gradient
    beta = 0.1
    legs = []
    for sign, start in zip([1, -1], starts[1:], strict=True):
        nudged = ep.CostNudged(system, ep.PhaseError(), wanted[0], None, jnp.asarray(sign * beta))
        state = ep.settle(nudged, one[0], ep.Polished(), start=start).state
        legs.append(jax.grad(lambda s, at=state: s.energy(at, one[0]), allow_int=True)(system).coupling)
    wrong = (legs[0] - legs[1]) / (2 * beta)
    assert jnp.linalg.norm(wrong - truth.coupling) > 5 * jnp.linalg.norm(truth.coupling)
    warm = ep.EquilibriumPropagation(ep.symmetric(beta), NEWTON, ep.CostNudged)
    estimate = warm(system, ep.PhaseError(), one, wanted, start=free.state[None])
    right = estimate.gradient.coupling
    assert jnp.linalg.norm(right - truth.coupling) < 0.05 * jnp.linalg.norm(truth.coupling)


def test_layers_of_oscillators_have_the_true_gradient():
    system = LayeredOscillators([4, 6, 5, 3], key=jax.random.key(0))
    inputs = jax.random.uniform(jax.random.key(1), (3, 4))
    targets = np.pi * (jnp.eye(3) - 0.5)
    propagate = ep.EquilibriumPropagation(
        ep.symmetric(0.025), ep.BlockDescent(rtol=1e-11, atol=1e-11, max_steps=3000, relaxation=1.0)
    )
    certificate = ep.certify(system, ep.PhaseError(), inputs, targets, propagate)
    assert certificate.ok, str(certificate)
    assert certificate.relative_error < 5e-3
    assert abs(certificate.order - 2) < 0.1


def test_holomorphic_nudging_reaches_the_rounding_floor():
    system = graph("kuramoto")
    inputs, targets = batch(system)
    free = jax.vmap(lambda x: ep.settle(system, x, ep.Polished()).state)(inputs)
    truth = ep.ImplicitDifferentiation(NEWTON)(system, ep.PhaseError(), inputs, targets, start=free).gradient.coupling
    propagate = ep.EquilibriumPropagation(ep.holomorphic(0.05, points=8), NEWTON)
    got = propagate(system, ep.PhaseError(), inputs, targets, start=free).gradient.coupling
    assert jnp.linalg.norm(got - truth) < 1e-8 * jnp.linalg.norm(truth)


def test_a_free_rotation_is_refused():
    edges = [(0, 1), (2, 3)]
    coupling = jnp.ones(2)
    with pytest.raises(
        ValueError, match=r"rotation symmetry of oscillators \[2, 3\].*Pin one of them, `pinned=\{2: 0.0\}`"
    ):
        OscillatorGraph(4, edges, coupling, pinned={0: 0.0})
    with pytest.raises(ValueError, match="Nothing breaks the rotation symmetry"):
        OscillatorGraph(4, edges, coupling, driven=(0, 2), field=jnp.asarray([1.0, 0.0]))
    OscillatorGraph(4, edges, coupling, driven=(0, 2), field=jnp.asarray([1.0, 0.1]))
    OscillatorGraph(4, edges, coupling, harmonic=jnp.ones(4))
    with pytest.raises(ValueError, match="falls into 2 parts"):
        OscillatorGraph(4, edges, coupling, frequency=jnp.ones(4), pinned={0: 0.0, 2: 0.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling": jnp.ones(2)}, "`coupling` of shape \\(2,\\) does not fit 1 edges"),
        ({"edges": [(0, 0)]}, "two different oscillators among 0 to 2"),
        ({"edges": [(0, 3)]}, "two different oscillators among 0 to 2"),
        ({"edges": [(0, 1), (1, 0)], "coupling": jnp.ones(2)}, "each pair once"),
        ({"driven": (0,), "field": jnp.ones(2)}, "`field` of shape \\(2,\\)"),
        ({"harmonic": jnp.ones(2)}, "`harmonic` of shape \\(2,\\) does not fit 3 oscillators"),
        ({"frequency": jnp.ones(4)}, "`frequency` of shape \\(4,\\)"),
        ({"outputs": (5,)}, "must name oscillators 0 to 2"),
        ({"outputs": (0,)}, "outputs must be free to move"),
    ],
)
def test_bad_graphs_are_refused_in_words(options, message):
    settings = {"edges": [(0, 1)], "coupling": jnp.ones(1), "pinned": {0: 0.0, 2: 0.0}, **options}
    with pytest.raises(ValueError, match=message):
        OscillatorGraph(3, settings.pop("edges"), settings.pop("coupling"), **settings)


def test_bad_inputs_and_sizes_are_refused_in_words():
    system = graph("xy")
    with pytest.raises(ValueError, match=r"`inputs` of shape \(2,\) do not fit 3 driven oscillators"):
        ep.settle(system, jnp.zeros(2), NEWTON)
    with pytest.raises(ValueError, match="`targets` of shape"):
        ep.PhaseError()(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="`pin` must be positive; got 0"):
        LayeredOscillators([4, 5, 3], key=jax.random.key(0), pin=0.0)
    with pytest.raises(ValueError, match="`sizes` must name inputs, hidden layers and outputs"):
        LayeredOscillators([4, 3], key=jax.random.key(0))
    layered = LayeredOscillators([4, 5, 3], key=jax.random.key(0))
    with pytest.raises(ValueError, match="must be a vector of 4 numbers"):
        ep.settle(layered, jnp.zeros(3), NEWTON)
    with pytest.raises(ValueError, match="Leading axis: the start"):
        ep.branches(system, jnp.zeros(3), NEWTON, jnp.zeros(UNITS))
