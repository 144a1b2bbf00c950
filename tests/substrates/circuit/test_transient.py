"""Transients against SciPy's integrator (A13), the co-content that falls, time constants, energy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import eqprop.circuits as ckt


def relaxing(coupled=False):
    keys = jax.random.split(jax.random.key(0), 2)
    circuit = ckt.Circuit()
    x, h, y = circuit.inputs("x", 3, mirrored=True), circuit.nodes("h", 6), circuit.nodes("y", 2)
    circuit.crossbar("W1", x, h, conductance=jax.random.uniform(keys[0], (6, 6), minval=1e-4, maxval=1e-3))
    circuit.split("d", h, ckt.SpiceDiode(1e-6))
    circuit.crossbar("W2", h, y, conductance=jax.random.uniform(keys[1], (6, 2), minval=1e-4, maxval=1e-3))
    circuit.capacitors("c", h + y, circuit.ground, "1n")
    if coupled:
        circuit.capacitors("cc", h[:1], y[:1], "2n")
    circuit.outputs(y)
    return circuit.compile()


@pytest.mark.parametrize("coupled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_transient_is_scipys(coupled):
    network, x = relaxing(coupled), jnp.array([0.8, -0.5, 0.3])
    times = jnp.linspace(0.0, 2e-6, 21)
    found = eqx.filter_jit(ckt.transient)(network, x, times)
    slope = jax.jit(jax.grad(network.energy))
    matrix = np.full((8, 8), 0.0)
    np.fill_diagonal(matrix, 1e-9)
    if coupled:
        matrix[np.ix_([0, 6], [0, 6])] += np.array([[2e-9, -2e-9], [-2e-9, 2e-9]])
    expected = scipy.integrate.solve_ivp(
        lambda _, s: -np.linalg.solve(matrix, np.asarray(slope(jnp.asarray(s), x))),
        (0.0, 2e-6), np.zeros(8), method="Radau", t_eval=np.asarray(times), rtol=1e-9, atol=1e-12,
    )  # fmt: skip
    assert np.abs(np.asarray(found.state) - expected.y.T).max() <= 1e-6
    assert bool(jnp.all(jnp.diff(found.cocontent) <= 1e-18))
    assert float(found.cocontent[0] - found.cocontent[-1]) > 1e-6


def test_time_constants_of_one_node_are_rc():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 1), circuit.node("y")
    circuit.resistors("r", x, y, resistance="1k")
    circuit.capacitors("c", y, circuit.ground, "1u")
    circuit.resistors("load", y, circuit.ground, resistance="1k")
    circuit.outputs(y)
    network = circuit.compile()
    np.testing.assert_allclose(ckt.time_constants(network, jnp.array([0.5]), jnp.ones(1)), [5e-4], rtol=1e-12)
    # Half a volt over each: 0.5 mW, times tau ln(1000).
    free, one = jnp.array([0.5]), jnp.ones(1)
    assert float(ckt.settling_time(network, free, one, precision=1e-2)) == pytest.approx(5e-4 * np.log(100), rel=1e-12)
    energy = ckt.energy_of_inference(network, free, one)
    assert float(energy) == pytest.approx(5e-4 * 5e-4 * np.log(1000), rel=1e-12)
    # A nudged phase at 0.75 V dissipates 0.25² + 0.75² mW; what the nudge itself delivers is in it.
    update = ckt.energy_of_update(network, free, one, [jnp.array([0.75]), free])
    assert float(update) == pytest.approx((5e-4 + 6.25e-4 + 5e-4) * 5e-4 * np.log(1000), rel=1e-12)


def test_every_free_node_needs_a_capacitor():
    circuit = ckt.Circuit()
    x, y = circuit.inputs("x", 1), circuit.node("y")
    circuit.resistors("r", x, y, resistance="1k")
    circuit.outputs(y)
    with pytest.raises(ValueError, match="Node `y` has no capacitor"):
        ckt.time_constants(circuit.compile(), jnp.zeros(1), jnp.ones(1))
