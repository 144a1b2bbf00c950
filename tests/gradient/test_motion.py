"""The check of systems in motion: figures that are known, and systems that must be refused."""

import math

import jax
import jax.numpy as jnp
import pytest

from eqprop.gradient.motion import check_motion, energy_along
from eqprop.motion import Pooled
from eqprop.substrates.hopfield import LayeredHopfield
from eqprop.substrates.trajectory import LCLadder, LearnedPotential, PendulumChain, RecurrentHamiltonian


def test_a_pendulum_is_found_sound():
    system = PendulumChain(jnp.array([1.0]), jnp.array([1.0]), samples=101, window=Pooled(2, last=True))
    result = check_motion(system, jnp.zeros((1, 1)), targets=jnp.zeros((1, 3, 1)))
    assert result.ok, str(result)
    assert result.order == pytest.approx(2, abs=0.05)
    assert result.drift < 1e-3
    assert result.drift_halved == pytest.approx(result.drift / 4, rel=0.1)
    assert result.retrace < 1e-13
    # The frequency of small swings, less at one radian: cos(1) of the stiffness.
    assert result.sharpness == pytest.approx(0.02 * (9.81 * math.cos(1.0)) ** 0.5, rel=1e-6)
    assert result.honest == 101
    assert "CERTIFIED" in str(result)


def test_other_systems_are_refused():
    with pytest.raises(ValueError, match="is neither"):
        check_motion(LayeredHopfield([2, 2], key=jax.random.key(0)), jnp.zeros((1, 2)))
    driven = LCLadder(3)
    with pytest.raises(ValueError, match="driven run is not conserved"):
        energy_along(driven, jnp.zeros(5))


@pytest.mark.parametrize(
    ("system", "inputs"),
    [
        (LCLadder(4, step=0.1, window=Pooled(2)), (1, 40)),
        (LearnedPotential(2, 5, key=jax.random.key(1), position=jnp.array([1.0, -0.5]), window=Pooled(2)), (1, 40, 2)),
        (RecurrentHamiltonian(1, 6, 2, key=jax.random.key(2), window=Pooled(2)), (1, 40)),
    ],
)
def test_ready_systems_pass(system, inputs):
    result = check_motion(system, jax.random.normal(jax.random.key(3), inputs))
    assert result.ok, str(result)
    assert result.certificate.relative_error < 1e-6
