"""Ising models and Boltzmann machines: energies, exact conditionals, fields of nudges, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.substrates.spins import redraw
from eqprop.substrates.spins.field import categorical_field, nudge_field
from eqprop.system import CostNudged, Forced

NOTHING = jnp.zeros(0)


def machine(key, *, inputs=3):
    return ep.LayeredBoltzmann(inputs, (ep.Spins(2), ep.Categorical(2, 3), ep.Spins(1)), key=key, gain=1.5)


def test_an_ising_energy_is_the_quadratic_form(getkey):
    rng = np.random.default_rng(0)
    upper = np.triu(rng.normal(size=(5, 5)), 1)
    couplings, field, spins = upper + upper.T, rng.normal(size=5), rng.choice([-1.0, 1.0], 5)
    model = ep.ising_from_couplings(couplings, field)
    expected = -0.5 * spins @ couplings @ spins - field @ spins
    assert float(model.energy(jnp.asarray(spins), NOTHING)) == pytest.approx(expected, rel=1e-14)


def test_two_spins_have_the_textbook_correlation():
    model = ep.ising_from_couplings(np.asarray([[0, 0.8], [0.8, 0]]), np.zeros(2))
    exact = ep.settle(model, NOTHING, ep.Enumeration(0.5))
    assert float(exact.expect(lambda s: s[0] * s[1])) == pytest.approx(np.tanh(0.8 / 0.5), rel=1e-14)
    assert float(exact.free_energy) == pytest.approx(-0.5 * np.log(4 * np.cosh(0.8 / 0.5)), rel=1e-14)


@pytest.mark.parametrize("nudge", [None, CostNudged, Forced])
def test_sampling_a_layered_machine_gives_its_exact_means(getkey, nudge):
    net, x, key = machine(getkey()), jnp.asarray([0.5, -1.0, 0.2]), getkey()
    exact, sampler = ep.Enumeration(0.9), ep.Gibbs(0.9, chains=64, burn_in=20, samples=60)
    system = net
    if nudge is not None:
        free = ep.settle(net, x, exact)
        system = nudge(net, ep.SquaredError(), jnp.ones(1), free, jnp.asarray(1.3))
    truth, seen = ep.settle(system, x, exact), ep.settle(system, x, sampler, key=key)

    def read(state):
        return jnp.concatenate([state[0], jnp.ravel(state[1]), state[2], state[0][:1] * state[1][0, :1]])

    score = (seen.expect(read) - truth.expect(read)) / seen.standard_error(read)
    assert np.abs(score).max() < 4
    assert seen.standard_error(read).max() < 0.06
    np.testing.assert_array_equal(seen.state[1].sum(-1), 1.0)


def test_a_categorical_output_takes_any_cost(getkey):
    net = ep.LayeredBoltzmann(2, (ep.Spins(3), ep.Categorical(1, 4)), key=getkey())
    x, target = jnp.asarray([1.0, -0.5]), jnp.asarray(2)
    for cost in (ep.ErrorRate(), ep.CrossEntropy()):
        nudged = CostNudged(net, cost, target, None, jnp.asarray(2.0))
        truth = ep.settle(nudged, x, ep.Enumeration(1.0))
        seen = ep.settle(nudged, x, ep.Gibbs(1.0, chains=64, samples=60), key=getkey())
        score = (seen.expect(net.output) - truth.expect(net.output)) / seen.standard_error(net.output)
        assert np.abs(score).max() < 4


def test_the_field_of_a_nudge_is_its_difference_between_values():
    y = jnp.asarray([1.0, -1.0, 0.3])
    field = nudge_field(lambda o: 0.7 * ep.SquaredError()(o, y), 3, y.dtype)
    np.testing.assert_allclose(field, 0.7 * y, rtol=1e-14)
    field = categorical_field(lambda o: ep.SquaredError()(o, jnp.eye(3)[:2]), 2, 3, y.dtype)
    expected = -np.asarray([[0, 1, 1], [1, 0, 1]])
    np.testing.assert_allclose(field - field[:, :1], expected - expected[:, :1], atol=1e-14)


def test_a_cost_that_couples_outputs_drawn_together_is_refused(getkey):
    net = ep.LayeredBoltzmann(2, (ep.Spins(3), ep.Spins(3)), key=getkey())
    nudged = CostNudged(net, ep.CrossEntropy(), jnp.asarray(1), None, jnp.asarray(1.0))
    with pytest.raises(RuntimeError, match=r"couples output units that are drawn together.*`nudge=Forced`"):
        ep.settle(nudged, jnp.zeros(2), ep.Gibbs(1.0), key=getkey())
    with pytest.raises(RuntimeError, match=r"couples output units"):
        categorical_field(lambda o: jnp.sum(o[0] * o[1]), 2, 3, jnp.zeros(()).dtype)


@pytest.mark.parametrize("large", [0, 500])
def test_many_chains_are_redrawn_as_one_by_one(getkey, monkeypatch, large):
    # Chains together have a layout of their own; so have chains of examples, and of models, one for each.
    monkeypatch.setattr(redraw, "_LARGE", large)
    model = ep.Ising(1, 6, [(0, 1), (1, 2), (2, 3), (3, 1), (4, 5), (5, 6)], key=getkey(), gain=2.0)
    inputs, temperature = jax.random.normal(getkey(), (2, 1)), jnp.asarray(0.7)
    states = jnp.where(jax.random.bernoulli(getkey(), shape=(2, 3, 6)), 1.0, -1.0)
    keys = jax.random.split(getkey(), (2, 3))

    @jax.jit
    def sweep(model, x, key, state):
        conditionals = model.conditionals(x, None)
        noise = conditionals.noise(key)
        for block in range(conditionals.count):
            state = conditionals.draw(block, noise, temperature, state)
        return state

    alone = [[sweep(model, inputs[i], keys[i, k], states[i, k]) for k in range(3)] for i in range(2)]
    chains = jax.vmap(sweep, (None, None, 0, 0))
    examples = jax.jit(jax.vmap(chains, (None, 0, 0, 0)))
    np.testing.assert_array_equal(examples(model, inputs, keys, states), alone)
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), model)
    each = jax.jit(jax.vmap(chains))(models, inputs, keys, states)
    np.testing.assert_array_equal(each[0], alone[0])
    double = jax.tree.map(lambda leaf: 2 * leaf, model)
    np.testing.assert_array_equal(each[1, 2], sweep(double, inputs[1], keys[1, 2], states[1, 2]))


def test_blocks_hold_no_two_coupled_spins(getkey):
    model = ep.Ising(1, 6, [(0, 1), (1, 2), (2, 3), (3, 1), (4, 5), (5, 6)], key=getkey())
    blocks = model.blocks()
    assert sum(b.astype(int) for b in blocks).tolist() == [1] * 6
    for i, j in model.edges:
        if i >= 1:
            assert not any(b[i - 1] and b[j - 1] for b in blocks)
    layered = machine(getkey())
    assert layered.blocks() == ((True, False, True), (False, True, False))


@pytest.mark.parametrize(
    ("couplings", "field", "message"),
    [
        (
            [[0, 1], [0.5, 0]],
            [0, 0],
            r"must be symmetric.*couplings\[0, 1\] = 1 but couplings\[1, 0\] = 0.5.*\(J \+ J.T\) / 2",
        ),
        ([[1, 1], [1, 0]], [0, 0], "must have a zero diagonal"),
        ([[0, 1, 0], [1, 0, 0]], [0, 0], "must be square with one `field` per spin"),
        ([[0, 1], [1, 0]], [0, 0, 0], "must be square with one `field` per spin"),
    ],
)
def test_couplings_that_are_no_energy_are_refused(couplings, field, message):
    with pytest.raises(ValueError, match=message):
        ep.ising_from_couplings(np.asarray(couplings, float), np.asarray(field, float))


def test_what_does_not_fit_is_refused(getkey):
    key = getkey()
    with pytest.raises(ValueError, match=r"`edges` must join two different nodes among 0 to 3.*each pair once"):
        ep.Ising(1, 3, [(1, 2), (2, 1)], key=key)
    with pytest.raises(ValueError, match=r"`outputs` must name spins, nodes 1 to 3"):
        ep.Ising(1, 3, [(1, 2)], [0], key=key)
    with pytest.raises(ValueError, match=r"hold 2 numbers; this model has 1 inputs"):
        ep.settle(ep.Ising(1, 3, [(1, 2)], key=key), jnp.zeros(2), ep.Gibbs(1.0), key=key)
    with pytest.raises(ValueError, match=r"at least two layers"):
        ep.LayeredBoltzmann(0, (ep.Spins(3),), key=key)
    with pytest.raises(ValueError, match=r"`outputs` must name one of the 2 layers"):
        ep.LayeredBoltzmann(0, (ep.Spins(3), ep.Spins(2)), key=key, outputs=2)
    with pytest.raises(ValueError, match=r"`Categorical.levels` must be at least 2"):
        ep.Categorical(1, 1)
    with pytest.raises(ValueError, match=r"30 spins have .* too many to list"):
        ep.settle(ep.Ising(0, 30, [(0, 1)], key=key), NOTHING, ep.Enumeration(1.0))
    with pytest.raises(ValueError, match=r"too many to list"):
        ep.LayeredBoltzmann(0, (ep.Spins(15), ep.Spins(15)), key=key).configurations()
    with pytest.raises(ValueError, match=r"does not list its `configurations`, which `Enumeration` needs"):
        ep.settle(ep.LayeredHopfield([2, 2], key=key), jnp.zeros(2), ep.Enumeration(1.0))


def test_parameters_are_the_arrays_of_the_model(getkey):
    model = ep.Ising(2, 3, [(0, 2), (2, 3)], key=getkey())
    assert [leaf.shape for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))] == [(2,), (3,)]
