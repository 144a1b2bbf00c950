"""Block Gibbs sampling against exact enumeration."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.system import Clamped, CostNudged


def triangle(temperature_scale=1.0):
    """Four spins with a frustrated triangle: three colours."""
    couplings = np.zeros((4, 4))
    for i, j, value in ((0, 1, 0.7), (1, 2, -0.5), (0, 2, 0.4), (2, 3, 0.9)):
        couplings[i, j] = couplings[j, i] = value * temperature_scale
    return ep.ising_from_couplings(couplings, np.asarray([0.2, -0.3, 0.1, 0.0]))


NOTHING = jnp.zeros(0)


@pytest.fixture(scope="module")
def transitions():
    """Of each block of the triangle: transition matrix among its 16 configurations, counted, and the exact weights."""
    model, temperature, draws = triangle(), jnp.asarray(0.8), 40_000
    states = model.configurations()
    conditionals = model.conditionals(NOTHING, None)

    @jax.jit
    def count(key):
        def follow(state, key):
            noise = conditionals.noise(key)
            ends = [conditionals.draw(b, noise, temperature, state) for b in range(conditionals.count)]
            return jnp.stack([jnp.sum((1 + e) / 2 * 2.0 ** np.arange(4)).astype(int) for e in ends])

        keys = jax.random.split(key, draws)
        ends = jax.vmap(lambda s: jax.vmap(lambda k: follow(s, k))(keys))(states)
        return jnp.mean(jax.nn.one_hot(ends, 16), axis=1)

    exact = ep.settle(model, NOTHING, ep.Enumeration(temperature))
    return np.moveaxis(np.asarray(count(jax.random.key(3))), 1, 0), np.asarray(exact.weights), draws


def test_each_block_update_is_in_detailed_balance(transitions):
    matrices, weights, draws = transitions
    assert len(matrices) == 3
    for matrix in matrices:
        flow = weights[:, None] * matrix
        error = weights[:, None] * np.sqrt(matrix * (1 - matrix) / draws)
        spread = np.sqrt(error**2 + error.T**2)
        moved = spread > 0
        assert moved.sum() > 16
        assert np.abs(flow - flow.T)[moved].max() < 5 * spread[moved].max()
        np.testing.assert_array_equal((flow > 0), (flow > 0).T)


def test_a_block_update_has_the_conditional_probabilities(transitions):
    matrices, weights, draws = transitions
    # Spin 2 has the most neighbours and a colour of its own, with no other spin.
    model = triangle()
    block = model.colours[2]
    alone = [c for c in range(4) if model.colours[c] == block]
    matrix = matrices[block]
    for start in range(16):
        same = [s for s in range(16) if all((s >> k & 1) == (start >> k & 1) for k in range(4) if k not in alone)]
        expected = np.zeros(16)
        expected[same] = weights[same] / weights[same].sum()
        np.testing.assert_allclose(matrix[start], expected, atol=5 * 0.5 / np.sqrt(draws))


def test_means_lie_within_their_standard_errors_in_95_of_100_seeds():
    model, temperature = triangle(), 0.8
    exact = ep.settle(model, NOTHING, ep.Enumeration(temperature))
    solver = ep.Gibbs(temperature, chains=16, burn_in=20, samples=40)

    def deviation(key):
        free = ep.settle(model, NOTHING, solver, key=key, throw=False)

        def seen(state):
            return jnp.stack([model.energy(state, NOTHING), state[0] * state[3], state[1]])

        return (free.expect(seen) - exact.expect(seen)) / free.standard_error(seen)

    scores = np.asarray(jax.jit(jax.vmap(deviation))(jax.random.split(jax.random.key(0), 100)))
    # Sixteen chains: Student's distribution with 15 degrees of freedom, 99 % within 2.95.
    assert (np.abs(scores) < 2.95).sum(0).min() >= 95
    # ... and the errors stated are not simply too large.
    assert ((scores.std(0) > 0.75) & (scores.std(0) < 1.35)).all()


def test_many_blocks_run_in_a_loop_and_give_the_same_distribution(getkey):
    # A complete graph of ten spins has ten colours, more than are written out one by one.
    rng = np.random.default_rng(1)
    upper = np.triu(rng.normal(size=(10, 10)) / 4, 1)
    model = ep.ising_from_couplings(upper + upper.T, rng.normal(size=10) / 4)
    assert len(model.blocks()) == 10
    exact = ep.settle(model, NOTHING, ep.Enumeration(1.0))
    free = ep.settle(model, NOTHING, ep.Gibbs(1.0, chains=64, burn_in=20, samples=50), key=getkey())
    error = free.standard_error(lambda s: s)
    assert np.abs((free.expect(lambda s: s) - exact.expect(lambda s: s)) / error).max() < 4
    assert error.max() < 0.05


def test_phases_with_one_key_share_their_noise_but_not_with_the_free_phase(getkey):
    model, key = triangle(), getkey()
    solver = ep.Gibbs(0.8, chains=4, burn_in=3, samples=5)
    free = ep.settle(model, NOTHING, solver, key=key)
    first, second = (ep.settle(model, NOTHING, solver, free=free, key=key) for _ in range(2))
    assert bool(first.same_samples(second))
    assert not bool(first.same_samples(free))
    assert free.restart.shape == (4, 4)
    assert free.state.shape == (20, 4)
    np.testing.assert_array_equal(free.state.reshape(4, 5, 4)[:, -1], free.restart)


def test_annealing_finds_ground_states_that_a_quench_misses(getkey):
    # A chain in a field against its spins: the first flip costs 1.4 at an end, 14 times the temperature.
    size = 8
    couplings = np.diag(np.ones(size - 1), 1)
    model = ep.ising_from_couplings(couplings + couplings.T, np.full(size, 0.3))
    exact = ep.settle(model, NOTHING, ep.Enumeration(0.1))
    start = jnp.full(size, -1.0)

    def chance(hottest, key):
        solver = ep.Gibbs(0.1, chains=200, burn_in=100, samples=1, hottest=hottest)
        free = ep.settle(model, NOTHING, solver, start=start, key=key)
        return float(free.expect(lambda s: jnp.all(s == exact.restart).astype(s.dtype)))

    assert chance(None, getkey()) < 0.1
    assert chance(3.0, getkey()) > 0.9


def test_a_nudged_anneal_goes_up_and_comes_down_again():
    solver = ep.Gibbs(0.5, burn_in=10, hottest=4.0)
    down, up_and_down = (np.asarray(solver._schedule(jnp.asarray(0.5), nudged)) for nudged in (False, True))
    assert down[0] == pytest.approx(4.0)
    assert (np.diff(down) < 0).all()
    assert up_and_down[0] == pytest.approx(0.5)
    assert up_and_down[5] == pytest.approx(4.0)
    assert (np.diff(up_and_down)[:5] > 0).all()
    assert (np.diff(up_and_down)[5:] < 0).all()


def test_clamped_outputs_are_sampled_around(getkey):
    model = triangle()
    held = ep.ising_from_couplings(np.asarray(_matrix(model)), np.asarray(model.field), outputs=[0, 3])
    clamped = Clamped(held, jnp.asarray([1.0, -1.0]), held.initial_state(NOTHING))
    exact = ep.settle(clamped, NOTHING, ep.Enumeration(0.8))
    sampled = ep.settle(clamped, NOTHING, ep.Gibbs(0.8, chains=64, samples=50), key=getkey())
    np.testing.assert_array_equal(sampled.state[:, [0, 3]], np.tile([1.0, -1.0], (64 * 50, 1)))
    error = sampled.standard_error(lambda s: s[1:3])
    assert np.abs((sampled.expect(lambda s: s[1:3]) - exact.expect(lambda s: s[1:3])) / error).max() < 4


def _matrix(model):
    matrix = np.zeros((4, 4))
    for (i, j), value in zip(model.edges, np.asarray(model.coupling), strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def test_a_new_temperature_does_not_compile_anew(getkey):
    model, traces = triangle(), []

    @eqx.filter_jit
    def mean(solver, key):
        traces.append(1)
        return solver.solve(model, NOTHING, model.initial_state(NOTHING), free=None, key=key).expect(lambda s: s)

    mean(ep.Gibbs(jnp.asarray(0.5), hottest=2.0), getkey())
    mean(ep.Gibbs(jnp.asarray(0.7), hottest=3.0), getkey())
    assert len(traces) == 1


def test_too_few_samples_for_the_asked_error(getkey):
    few = ep.Gibbs(0.8, chains=4, samples=2, standard_error=0.03)
    free = ep.settle(triangle(), NOTHING, few, key=getkey(), throw=False)
    assert free.result == ep.RESULT.too_few_samples
    assert float(free.residual) > 0.03
    with pytest.raises(RuntimeError, match=r"standard error of the samples is above .* Raise `chains`, `samples`"):
        ep.settle(triangle(), NOTHING, few, key=getkey())
    many = ep.Gibbs(0.8, chains=64, samples=400, standard_error=0.03)
    assert bool(ep.settle(triangle(), NOTHING, many, key=getkey()).settled)
    with pytest.raises(ValueError, match=r"a single sample, which tells no error"):
        ep.settle(triangle(), NOTHING, ep.Gibbs(0.8, chains=1, samples=1, standard_error=0.1), key=getkey())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("solver", [ep.Gibbs, ep.Enumeration, ep.Langevin, ep.MALA])
def test_a_temperature_that_is_not_positive_is_refused(solver, temperature):
    with pytest.raises(
        ValueError, match=r"`\w+.temperature` must be positive and finite; at zero .* small temperature"
    ):
        solver(temperature)


def test_a_temperature_known_only_on_the_device_is_refused_there(getkey):
    @eqx.filter_jit
    def mean(temperature, key):
        return ep.Gibbs(temperature).solve(triangle(), NOTHING, jnp.zeros(4), free=None, key=key).expect(lambda s: s)

    with pytest.raises(RuntimeError, match=r"`Gibbs.temperature` must be positive"):
        jax.block_until_ready(mean(jnp.asarray(-1.0), getkey()))


def test_what_a_sampler_cannot_do_it_says(getkey):
    model = triangle()
    with pytest.raises(ValueError, match=r"`Gibbs` draws random numbers: give `key="):
        ep.settle(model, NOTHING, ep.Gibbs(1.0))
    with pytest.raises(ValueError, match=r"declares no `conditionals`, which `Gibbs` needs. Use `Langevin`"):
        ep.settle(ep.LayeredHopfield([2, 2], key=getkey()), jnp.zeros(2), ep.Gibbs(1.0), key=getkey())
    with pytest.raises(ValueError, match=r"`Gibbs.chains` must be at least 1; got 0"):
        ep.settle(model, NOTHING, ep.Gibbs(1.0, chains=0), key=getkey())
    with pytest.raises(ValueError, match=r"`Gibbs.burn_in` must not be negative"):
        ep.settle(model, NOTHING, ep.Gibbs(1.0, burn_in=-1), key=getkey())
    with pytest.raises(ValueError, match=r"fits neither one state.*nor the 8 chains"):
        ep.settle(model, NOTHING, ep.Gibbs(1.0), start=jnp.ones((3, 4)), key=getkey())
    batch = jnp.zeros((1, 0)), jnp.ones((1, 4))
    with jax.numpy_dtype_promotion("standard"):
        rule = ep.EquilibriumPropagation(ep.holomorphic(0.1), ep.Gibbs(1.0), CostNudged)
        with pytest.raises(ValueError, match=r"cannot sample at a complex nudging"):
            rule(model, ep.SquaredError(), *batch, key=getkey())
