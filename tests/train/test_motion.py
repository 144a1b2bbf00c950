"""The check of systems in motion: figures that are known, and systems that must be refused."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

from eqprop.motion import Pooled
from eqprop.substrates.hopfield import LayeredHopfield
from eqprop.substrates.trajectory import (
    FixedEnds,
    GivenEnds,
    Lagrangian,
    LCLadder,
    LearnedPotential,
    Path,
    PendulumChain,
    RecurrentHamiltonian,
)
from eqprop.train.motion import check_motion, energy_along


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


def test_a_damped_pendulum_is_found_sound():
    system = PendulumChain(jnp.array([1.0]), jnp.array([1.0]), samples=101, friction=0.3, window=Pooled(2, last=True))
    result = check_motion(system)
    assert result.ok, str(result)
    assert result.drift is None
    assert result.order == pytest.approx(2, abs=0.05)
    assert result.amplified == pytest.approx(math.exp(0.3 * 2.0))
    assert "gain of an echo" in str(result)


class Swing(Lagrangian):
    """A pendulum; `magnetic` is a force that time reversal turns round."""

    length: Float[Array, ""]
    magnetic: float = eqx.field(static=True, default=0.0)
    dimension: int = eqx.field(static=True, default=2)

    def __call__(self, position, velocity, time, drive):
        kinetic = 0.5 * self.length**2 * jnp.sum(velocity**2)
        turning = self.magnetic * (position[0] * velocity[1] - position[1] * velocity[0])
        return kinetic + turning + self.length * jnp.sum(jnp.cos(position))


def test_a_path_is_found_sound():
    path = Path(Swing(jnp.array(1.2)), FixedEnds([0.2, -0.1], [0.5, 0.3]), steps=40, duration=2.0)
    result = check_motion(path)
    assert result.ok, str(result)
    assert result.order == pytest.approx(2, abs=0.05)
    assert result.drift < 1e-2
    assert result.drift_halved == pytest.approx(result.drift / 4, rel=0.15)
    assert result.retrace < 1e-10
    assert result.certificate.relative_error < 1e-4


def test_what_does_not_run_back_and_what_is_driven_is_told():
    path = Path(Swing(jnp.array(1.2), 0.5), FixedEnds([0.2, -0.1], [0.5, 0.3]), steps=40, duration=2.0)
    # Between given ends the gradient does not mind a magnetic force; an echo would.
    result = check_motion(path)
    assert result.ok, str(result)
    assert result.retrace > 1e-3


def test_inputs_that_are_missing_are_asked_for():
    with pytest.raises(ValueError, match="needs inputs to be checked"):
        check_motion(Path(Swing(jnp.array(1.2)), GivenEnds(), steps=40, duration=2.0))


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
        pytest.param(
            RecurrentHamiltonian(1, 6, 2, key=jax.random.key(2), window=Pooled(2)), (1, 40), marks=pytest.mark.slow
        ),
    ],
)
def test_ready_systems_pass(system, inputs):
    result = check_motion(system, jax.random.normal(jax.random.key(3), inputs))
    assert result.ok, str(result)
    assert result.certificate.relative_error < 1e-6
