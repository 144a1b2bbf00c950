"""Langevin dynamics: its step bias is the one it reports, and MALA has none."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import eqprop as ep


class Wells(ep.System):
    """Independent springs with a quartic term, in a field."""

    stiffness: Float[Array, " unit"]
    quartic: float = 0.0

    def energy(self, state, inputs):
        return jnp.sum(0.5 * self.stiffness * state**2 + self.quartic * state**4 / 4 - inputs * state)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


SPRINGS = Wells(jnp.asarray([1.0, 2.5]))
FIELD = jnp.zeros(2)


def test_the_step_bias_of_springs_is_exact(getkey):
    step, temperature = 0.2, 0.7
    solver = ep.Langevin(temperature, step, chains=1000, burn_in=200, samples=100, thin=2)
    free = ep.settle(SPRINGS, FIELD, solver, key=getkey())
    stiffness = np.asarray(SPRINGS.stiffness)
    variance = temperature / stiffness / (1 - step * stiffness / 2)  # of the discrete chain, in closed form
    np.testing.assert_allclose(free.expect(lambda s: s**2), variance, rtol=0.02)
    told = float(free.step_bias)
    assert told == pytest.approx(np.mean(variance * stiffness / temperature) - 1, rel=0.02)
    # The virial of the samples shows the very excess that is reported.
    virial = free.expect(lambda s: jnp.sum(s * jax.grad(SPRINGS.energy)(s, FIELD)))
    assert float(virial) == pytest.approx(2 * temperature * (1 + told), rel=0.01)


def test_the_reported_bias_halves_with_the_step_on_a_quartic_well(getkey):
    def told(step):
        solver = ep.Langevin(0.5, step, chains=500, burn_in=100, samples=40, thin=5)
        return float(ep.settle(Wells(jnp.ones(2), 1.0), FIELD, solver, key=getkey()).step_bias)

    biases = [told(step) for step in (0.1, 0.05, 0.025)]
    slope = np.polyfit(np.log([0.1, 0.05, 0.025]), np.log(biases), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.15)
    assert biases[0] < 0.3


def test_mala_has_no_step_bias(getkey):
    pytest.importorskip("blackjax")
    solver = ep.MALA(0.7, 0.4, chains=500, burn_in=100, samples=50, thin=4)
    free = ep.settle(SPRINGS, FIELD, solver, key=getkey())
    exact = 0.7 / np.asarray(SPRINGS.stiffness)
    score = (free.expect(lambda s: s**2) - exact) / free.standard_error(lambda s: s**2)
    assert np.abs(score).max() < 4
    assert (free.standard_error(lambda s: s**2) < 0.02 * exact).all()
    assert 0.5 < float(free.acceptance) < 1
    # At this step plain Langevin is off by a quarter in the variance of the stiffer spring.
    plain = ep.settle(SPRINGS, FIELD, ep.Langevin(0.7, 0.4, chains=500, burn_in=100), key=getkey())
    assert float(plain.expect(lambda s: s[1] ** 2)) > 1.5 * exact[1]


def test_errors_fall_with_the_root_of_the_number_of_samples(getkey):
    def error(samples):
        solver = ep.Langevin(0.5, 0.1, chains=200, burn_in=50, samples=samples, thin=4)
        return float(ep.settle(SPRINGS, FIELD, solver, key=getkey()).residual)

    sizes = [25, 100, 400]
    slope = np.polyfit(np.log(sizes), np.log([error(n) for n in sizes]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)
    assert error(100) < 0.02


def test_a_runaway_is_reported(getkey):
    free = ep.settle(SPRINGS, FIELD, ep.Langevin(0.5, 2.0, samples=2000), key=getkey(), throw=False)
    assert free.result == ep.RESULT.diverged
    assert not bool(free.settled)


def test_what_langevin_cannot_do_it_says(getkey):
    with pytest.raises(ValueError, match=r"`Langevin.step_size` must be positive; got -0.1"):
        ep.Langevin(1.0, -0.1)
    spins = ep.Ising(0, 2, [(0, 1)], key=getkey())
    with pytest.raises(
        ValueError, match=r"`Langevin` follows gradients, which the discrete `Ising` has not; use `Gibbs`"
    ):
        ep.settle(spins, jnp.zeros(0), ep.Langevin(1.0), key=getkey())
    bounded = ep.LayeredHopfield([2, 2, 2], key=getkey())
    with pytest.raises(ValueError, match=r"cannot keep `LayeredHopfield` within its bounds"):
        ep.settle(bounded, jnp.zeros(2), ep.Langevin(1.0), key=getkey())


def test_mala_without_blackjax_names_the_extra(getkey, monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax.mcmc", None)
    with pytest.raises(ImportError, match=r"`MALA` needs blackjax: pip install 'eqprop\[sampling\]'"):
        ep.settle(SPRINGS, FIELD, ep.MALA(1.0), key=getkey())
