"""Imperfect chips: all off is the ideal path bit for bit (A17), a key repeats, each stage does what it says."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqprop as ep
import eqprop.circuits as ckt
from eqprop.train.devices import DeviceSettings, as_devices

VALUES = {"conductances": (jnp.full((300, 100), 0.5),), "currents": (jnp.zeros(3),)}


def updated(settings, change, steps=1, values=VALUES):
    optimiser = as_devices(settings)
    state = optimiser.init(values)
    for _ in range(steps):
        changes, state = optimiser.update(jax.tree.map(lambda v: jnp.full_like(v, change), values), state, values)
        values = optax.apply_updates(values, changes)
    return jnp.subtract(values["conductances"][0], VALUES["conductances"][0]), values["currents"][0]


def trained(settings, steps=3):
    network = ckt.DeepResistiveNetwork([4, 6, 2], key=jax.random.key(0), input_gain=10.0)
    solver = settings.solver(ep.BlockDescent(rtol=1e-8))
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), solver)
    optimiser = settings.optimiser(optax.sgd(0.01))
    state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))
    x, y = jax.random.uniform(jax.random.key(1), (5, 4)), jnp.ones((5, 2))

    @eqx.filter_jit
    def step(network, state, key):
        gradient = propagate(network, ep.SquaredError(), x, y, key=key).gradient
        updates, state = optimiser.update(gradient, state, eqx.filter(network, eqx.is_inexact_array))
        return eqx.apply_updates(network, updates), state

    for k in range(steps):
        network, state = step(network, state, jax.random.key(k))
    return np.concatenate([np.ravel(g) for g in network.conductances])


def test_all_off_is_the_ideal_path_and_a_key_repeats():
    ideal = DeviceSettings()
    solver, optimiser = ep.BlockDescent(), optax.sgd(0.1)
    assert ideal.solver(solver) is solver
    assert ideal.optimiser(optimiser) is optimiser
    noisy = DeviceSettings(dw_min=1e-3, dw_min_dtod=0.3, dw_min_std=0.3, read_noise=1e-2, corrupt_devices_prob=0.1)
    one, again, clean = trained(noisy), trained(noisy), trained(ideal)
    assert (one == again).all()
    assert (one != trained(DeviceSettings(**{**noisy.model_dump(), "chip": 1}))).any()
    assert np.abs(one - clean).max() > 1e-4


def test_a_chip_with_everything_off_changes_no_bit():
    network = ckt.DeepResistiveNetwork([4, 6, 2], key=jax.random.key(0))
    same = ckt.Chip().deploy(jax.random.key(1), network, lambda n: list(n.conductances))
    assert eqx.tree_equal(network, same)


def test_pulses_are_right_in_the_mean():
    made, currents = updated(DeviceSettings(dw_min=1e-2), 3e-3)
    assert set(np.unique(np.round(np.asarray(made), 12))) == {0.0, 0.01}
    # 30000 draws of probability 0.3: a standard error of 2.6e-5.
    assert float(made.mean()) == pytest.approx(3e-3, abs=1.1e-4)
    np.testing.assert_allclose(currents, 3e-3)  # not a device


@pytest.mark.parametrize(
    ("changes", "spread"), [({"dw_min_dtod": 0.2}, 0.2), ({"dw_min_std": 0.2}, 0.2), ({"up_down_dtod": 0.2}, 0.2)]
)
def test_spreads(changes, spread):
    made, _ = updated(DeviceSettings(**changes), 1e-2)
    assert float(made.std() / made.mean()) == pytest.approx(spread, rel=0.03)


def test_device_spread_stays_and_cycle_spread_averages_out():
    fixed, _ = updated(DeviceSettings(dw_min_dtod=0.2), 1e-4, steps=16)
    fresh, _ = updated(DeviceSettings(dw_min_std=0.2), 1e-4, steps=16)
    assert float(fixed.std() / fixed.mean()) == pytest.approx(0.2, rel=0.05)
    assert float(fresh.std() / fresh.mean()) == pytest.approx(0.05, rel=0.05)


def test_soft_bounds_shrink_towards_the_bound():
    values = {"conductances": (jnp.array([0.25, 0.5, 0.9]),), "currents": (jnp.zeros(3),)}
    optimiser = as_devices(DeviceSettings(response="soft_bounds"))
    for change, factors in ((1e-3, (1.5, 1.0, 0.2)), (-1e-3, (0.5, 1.0, 1.8))):
        wanted = jax.tree.map(lambda v, c=change: jnp.full_like(v, c), values)
        made, _ = optimiser.update(wanted, optimiser.init(values), values)
        np.testing.assert_allclose(made["conductances"][0], change * np.array(factors), rtol=1e-9)


def test_asymmetry_sign_drift_and_levels():
    up, _ = updated(DeviceSettings(up_down=0.1), 1e-2)
    down, _ = updated(DeviceSettings(up_down=0.1), -1e-2)
    np.testing.assert_allclose([up[0, 0], down[0, 0]], [1.1e-2, -0.9e-2], rtol=1e-9)
    sign, _ = updated(DeviceSettings(response="sign", dw_min=1e-2), 1e-9)
    np.testing.assert_allclose(sign, 1e-2, rtol=1e-9)
    drift, _ = updated(DeviceSettings(lifetime=10.0), 0.0, steps=10)
    np.testing.assert_allclose(drift, 0.5 * (np.exp(-1) - 1), rtol=1e-9)
    steps, _ = updated(DeviceSettings(levels=11), 0.025)
    assert set(np.unique(np.round(np.asarray(steps), 9))) == {0.0, 0.1}
    assert float(steps.mean()) == pytest.approx(0.025, abs=1e-3)


def test_stuck_devices_stay_and_deployment_finds_the_same_ones():
    settings = DeviceSettings(corrupt_devices_prob=0.1)
    made, _ = updated(settings, 1e-3)
    stuck = np.asarray(made) == -0.5
    assert stuck.mean() == pytest.approx(0.1, abs=0.01)
    chip = settings.held()
    key = jax.random.key(5)
    first, second = (chip.hold(key, v * jnp.ones((50, 50))) for v in (0.3, 0.6))
    assert ((np.asarray(first) == 0) == (np.asarray(second) == 0)).all()


def test_mismatch_and_levels_of_a_chip():
    held = ckt.Chip(gain_dtod=0.1).hold(jax.random.key(0), jnp.full((200, 100), 0.5))
    assert float(held.std()) == pytest.approx(0.05, rel=0.03)
    levels = ckt.Chip(levels=5).hold(jax.random.key(0), jnp.array([0.1, 0.2, 0.6]))
    np.testing.assert_allclose(levels, [0.0, 0.25, 0.5])
    np.testing.assert_allclose(ckt.from_aihwkit_range(jnp.array([-1.0, 0.0, 1.0]), 1e-6, 3e-6), [1e-6, 2e-6, 3e-6])


def test_readings_are_noisy_anew_in_each_phase_and_offset_the_same():
    network = ckt.DeepResistiveNetwork([4, 600, 2], key=jax.random.key(0), input_gain=10.0)
    x, key = jnp.array([0.3, 0.1, 0.9, 0.5]), jax.random.key(7)
    plain = ep.BlockDescent(rtol=1e-10)
    truth = ep.settle(network, x, plain).state
    free = ep.settle(network, x, ckt.Measured(plain, read_noise=1e-3), key=key)
    nudged = ep.Forced(network, ep.SquaredError(), jnp.zeros(2), ep.settle(network, x, plain), jnp.asarray(1e-9))
    other = ep.settle(nudged, x, ckt.Measured(plain, read_noise=1e-3), key=key, start=truth)
    noise, noise_too = (np.asarray(e.state[0] - truth[0]) for e in (free, other))
    assert noise.std() == pytest.approx(1e-3, rel=0.1)
    assert abs(np.corrcoef(noise, noise_too)[0, 1]) < 0.15
    shifted = [ep.settle(s, x, ckt.Measured(plain, offset=1e-3)).state[0] for s in (network, nudged)]
    np.testing.assert_allclose(shifted[0], shifted[1], atol=1e-7)
    coarse = ep.settle(network, x, ckt.Measured(plain, bits=4, full_scale=1.6)).state[1]
    np.testing.assert_allclose(np.asarray(coarse) / 0.2, np.round(np.asarray(coarse) / 0.2), atol=1e-9)


def test_errors():
    network = ckt.DeepResistiveNetwork([2, 2], key=jax.random.key(0))
    with pytest.raises(ValueError, match="Read noise is random"):
        ep.settle(network, jnp.ones(2), ckt.Measured(ep.BlockDescent(), read_noise=1e-3))
    with pytest.raises(ValueError, match=r"`Measured.read_noise` must not be negative"):
        ckt.Measured(ep.BlockDescent(), read_noise=-1.0)
    with pytest.raises(ValueError, match=r"`Chip.levels` must be at least 2"):
        ckt.Chip(levels=1)
