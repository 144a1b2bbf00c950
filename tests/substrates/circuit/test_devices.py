"""Currents are the derivatives of co-contents, conductances those of currents (A4); closed forms; units."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop.circuits as ckt

VT = ckt.thermal_voltage()
VOLTAGES = np.array([-30.0, -5.0, -0.3, -4 * VT, -3.01 * VT, -2.99 * VT, -VT, -1e-4, 1e-5, 1e-3, 0.02, 0.3, 0.7, 1.9])
DEVICES = [
    ckt.Resistor(ckt.Fixed(2e-3)),
    ckt.NortonSource(ckt.Fixed(2e-3), ckt.Fixed(0.4)),
    ckt.PiecewiseLinearDiode("10m", 0.25),
    ckt.ShockleyDiode(1e-9, 1.7),
    ckt.SpiceDiode(1e-6),
    ckt.SpiceDiode("10f", 1.2, minimal_conductance=0.0),
    ckt.AntiparallelDiodes(ckt.ShockleyDiode(1e-6, 2.0)),
    ckt.AntiparallelDiodes(ckt.SpiceDiode(1e-6, 2.0)),
]


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: type(d).__name__)
def test_current_is_the_slope_of_the_cocontent(device):
    u = jnp.asarray(VOLTAGES)
    by_autodiff = jax.grad(lambda v: jnp.sum(device.cocontent(v)))(u)
    # Relative to the current, or 5e-19 A where it all but vanishes.
    np.testing.assert_allclose(by_autodiff, device.current(u), rtol=1e-12, atol=5e-19)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: type(d).__name__)
def test_slope_is_the_derivative_of_the_current(device):
    u = jnp.asarray(VOLTAGES)
    by_autodiff = jax.vmap(jax.grad(lambda v: device.current(v[None])[0]))(u)
    np.testing.assert_allclose(by_autodiff, jnp.broadcast_to(device.slope(u), u.shape), rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: type(d).__name__)
def test_current_never_decreases_and_cocontent_vanishes_at_zero(device):
    u = jnp.linspace(-1.0, 3.0, 4001)
    # The first pieces lie 1e-17 apart: rounding of the current itself.
    assert bool(jnp.all(jnp.diff(device.current(u)) >= -1e-20))
    assert float(jnp.abs(device.cocontent(jnp.zeros(1)))[0]) == 0.0


@pytest.mark.parametrize("n", [1.0, 2.0])
def test_spice_diode_is_continuous_at_its_seam(n):
    diode, seam = ckt.SpiceDiode(1e-6, n), -3 * n * VT
    below, above = jnp.asarray([np.nextafter(seam, -1)]), jnp.asarray([np.nextafter(seam, 1)])
    for law in (diode.current, diode.cocontent):
        np.testing.assert_allclose(law(below), law(above), rtol=1e-13)
    # By hand: Is (e^-3 - 1) and gmin u.
    np.testing.assert_allclose(diode.current(above)[0], 1e-6 * np.expm1(-3) + 1e-12 * seam, rtol=1e-13)


def test_antiparallel_shockley_diodes_are_a_hyperbolic_sine():
    u = jnp.linspace(-0.5, 0.5, 11)
    pair = ckt.AntiparallelDiodes(ckt.ShockleyDiode(1e-6))
    np.testing.assert_allclose(pair.current(u), 2e-6 * np.sinh(u / VT), rtol=1e-12, atol=1e-22)


def test_small_voltages_keep_their_digits():
    diode = ckt.ShockleyDiode(1e-6)
    u = jnp.asarray([1e-9])
    np.testing.assert_allclose(diode.cocontent(u), 1e-6 * 1e-18 / (2 * VT) * (1 + 1e-9 / (3 * VT)), rtol=1e-12)


def test_exponentials_do_not_overflow():
    for device in DEVICES[3:]:
        for dtype in (jnp.float32, jnp.float64):
            value = device.cocontent(jnp.asarray([1e4, -1e4], dtype))
            assert bool(jnp.all(jnp.isfinite(value))) or dtype == jnp.float32


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.7k", 4700.0),
        ("10u", 1e-5),
        ("1meg", 1e6),
        ("2.5e-3", 2.5e-3),
        ("5 mS", 5e-3),
        ("10µA", 1e-5),
        ("-3 V", -3.0),
    ],
)
def test_engineering_notation(text, value):
    assert ckt.number(text) == value


def test_engineering_notation_refuses_nonsense():
    with pytest.raises(ValueError, match=r'"4\.7x" is no value in engineering notation'):
        ckt.number("4.7x")


@pytest.mark.parametrize("kind", [ckt.Plain, ckt.Softplus, ckt.Log])
def test_parametrisations_keep_the_value_and_its_chain_rule(kind):
    value = jnp.asarray([1e-5, 3e-4, 2e-3])
    quantity = kind(value)
    np.testing.assert_allclose(quantity.value, value, rtol=1e-12)
    np.testing.assert_allclose(quantity.at(2 * value).value, 2 * value, rtol=1e-12)
    leaf = jax.tree.leaves(quantity)[0]
    step = 1e-6
    slope = jax.jacfwd(lambda raw: jax.tree.unflatten(jax.tree.structure(quantity), [raw]).value)(leaf)
    moved = jax.tree.unflatten(jax.tree.structure(quantity), [leaf + step]).value
    np.testing.assert_allclose(jnp.diagonal(slope), (moved - value) / step, rtol=1e-4)


@pytest.mark.parametrize("kind", [ckt.Softplus, ckt.Log])
def test_positive_parametrisations_refuse_zero(kind):
    with pytest.raises(ValueError, match="positive values only"):
        kind(np.array([0.0, 1.0]))


def test_diodes_refuse_currents_that_are_not_positive():
    with pytest.raises(ValueError, match=r"`SpiceDiode.saturation_current` must be positive; got -1e-09"):
        ckt.SpiceDiode(-1e-9)


@pytest.mark.parametrize("kind", [ckt.Plain, ckt.Softplus, ckt.Log])
@pytest.mark.parametrize("array", [jnp.asarray, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parametrisations_keep_the_number_type(kind, array, dtype):
    quantity = kind(array(np.array([1e-5, 3e-4, 2e-3]), dtype))
    again = quantity.at(2 * quantity.value)
    assert {leaf.dtype for leaf in jax.tree.leaves((quantity, again))} == {np.dtype(dtype)}
    assert quantity.value.dtype == again.value.dtype == dtype


@pytest.mark.parametrize("kind", [ckt.Softplus, ckt.Log])
def test_positive_parametrisations_are_made_inside_jit(kind):
    value = jnp.asarray([1e-5, 3e-4, 2e-3], jnp.float32)
    made = eqx.filter_jit(lambda v: kind(v, unit="1m"))(value)
    assert made.value.dtype == jnp.float32
    np.testing.assert_allclose(made.value, value, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda v: kind(1e-3).at(v).value)(value), value, rtol=1e-5)
    with pytest.raises(ValueError, match=f"`{kind.__name__}` cannot choose its unit inside `jit`.*give `unit=`"):
        jax.jit(lambda v: kind(v).value)(value)
    with pytest.raises(RuntimeError, match=f"`{kind.__name__}` holds positive values only"):
        jax.block_until_ready(eqx.filter_jit(lambda v: kind(v, unit=1.0))(-value))
