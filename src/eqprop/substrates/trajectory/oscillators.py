r"""Hamiltonian systems of the textbook: oscillators, chains of pendulums, LC ladders, a particle in a landscape.

Each is driven by a force on its first coordinate (inputs [sample] or [sample, coordinate]), or not at all (`samples`).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from eqprop.motion import EverySample, Hamiltonian, Window

__all__ = ["LCLadder", "LearnedPotential", "Oscillators", "PendulumChain"]


class Started(Hamiltonian):
    """Systems that begin where their own arrays say, whatever the inputs."""

    position: eqx.AbstractVar[Float[Array, " coordinate"]]
    momentum: eqx.AbstractVar[Float[Array, " coordinate"]]
    friction: eqx.AbstractVar[float]

    def begin(self, inputs):
        return self.position, self.momentum

    def friction_rate(self):
        return self.friction


class _Driven(Started):
    """What the systems of this file share: how a drive acts."""

    def drive(self, inputs):
        """The inputs, unless `samples` says that the run is undriven."""
        return None if self.samples is not None else inputs


class Oscillators(_Driven):
    r"""Masses on springs, coupled, hardening: $V = \tfrac12 q^\top S q + \tfrac14\sum_i a_i q_i^4 - u\cdot q$.

    Args:
        count: Number of masses.
        key: Random key: masses within 20 % of 1 kg, stiffness that of a chain of springs near 1 N/m.
        step: Time step. [s]
        samples: Length of an undriven run; None for a run driven by forces [sample, mass] in newtons.
        substeps: Kicks for each sample.
        friction: Rate at which momenta decay; see `Hamiltonian.friction_rate`. [1/s]
        anharmonic: Quartic coefficient of all masses. [N/m^3]
        window: Which readings become features.

    Raises:
        ValueError: for no masses, a step that is no positive number, or friction that is negative.
    """

    mass: Float[Array, " mass"]  # [kg]
    stiffness: Float[Array, "mass mass"]  # [N/m]
    quartic: Float[Array, " mass"]  # [N/m^3]
    position: Float[Array, " mass"]  # at the start [m]
    momentum: Float[Array, " mass"]  # at the start [kg m/s]
    step: float = eqx.field(static=True)
    samples: int | None = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    friction: float = eqx.field(static=True)
    window: Window

    def __init__(
        self,
        count: int,
        *,
        key: PRNGKeyArray,
        step: float = 0.05,
        samples: int | None = None,
        substeps: int = 1,
        friction: float = 0.0,
        anharmonic: float = 0.0,
        window: Window | None = None,
    ):
        self.step, self.samples, self.substeps, self.friction, self.window = run_settings(
            count, step, samples, substeps, friction, window
        )
        keys = jax.random.split(key, 4)
        self.mass = jax.random.uniform(keys[0], (count,), minval=0.8, maxval=1.2)
        springs = jax.random.uniform(keys[1], (count + 1,), minval=0.7, maxval=1.3)
        self.stiffness = jnp.diag(springs[:-1] + springs[1:]) - jnp.diag(springs[1:-1], 1) - jnp.diag(springs[1:-1], -1)
        self.quartic = jnp.full(count, anharmonic)
        self.position = 0.5 * jax.random.normal(keys[2], (count,))
        self.momentum = 0.5 * jax.random.normal(keys[3], (count,))

    def kinetic(self, momentum):
        return 0.5 * jnp.sum(momentum**2 / self.mass)

    def potential(self, position, drive):
        elastic = 0.5 * jnp.dot(position, jnp.dot(self.stiffness, position)) + 0.25 * jnp.sum(
            self.quartic * position**4
        )
        return elastic - work(position, drive)


class PendulumChain(_Driven):
    r"""Pendulums in a row, joined by torsion springs.

    $$V = \sum_i m_i g l_i(1 - \cos q_i) + \sum_i \tfrac12 c_i(q_{i+1} - q_i)^2$$

    Args:
        length: Of each pendulum. [m]
        mass: Of each bob; a plain number, never trained. [kg]
        coupling: Torsion stiffness between neighbours. [N m]
        position: Angles at the start. [rad]
        step: Time step. [s]
        samples: As in `Oscillators`; a drive is a torque [sample, pendulum] in newton metres.
        substeps: Kicks for each sample.
        friction: As in `Oscillators`.
        window: Which readings become features.

    Raises:
        ValueError: for lengths that are not positive, or arrays that do not fit.
    """

    length_scale: Float[Array, " pendulum"]  # lengths are its squares, hence positive [m^0.5]
    coupling: Float[Array, " joint"]  # [N m]
    position: Float[Array, " pendulum"]  # at the start [rad]
    momentum: Float[Array, " pendulum"]  # at the start [kg m^2/s]
    mass: float = eqx.field(static=True)
    gravity: float = eqx.field(static=True)
    step: float = eqx.field(static=True)
    samples: int | None = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    friction: float = eqx.field(static=True)
    window: Window

    def __init__(
        self,
        length: Float[Array, " pendulum"],
        position: Float[Array, " pendulum"],
        *,
        coupling: float = 0.0,
        mass: float = 1.0,
        gravity: float = 9.81,
        step: float = 0.02,
        samples: int | None = None,
        substeps: int = 1,
        friction: float = 0.0,
        window: Window | None = None,
    ):
        length, position = jnp.asarray(length), jnp.asarray(position)
        self.step, self.samples, self.substeps, self.friction, self.window = run_settings(
            length.size if length.ndim == 1 else 0,
            step,
            samples,
            substeps,
            friction,
            window,
        )
        if length.shape != position.shape or not bool(jnp.all(length > 0)):
            raise ValueError(
                f"`length` must be positive, one for each angle in `position`; got {length} and shape {position.shape}."
            )
        self.length_scale = jnp.sqrt(length)
        self.coupling = jnp.full(length.shape[0] - 1, coupling)
        self.position = position
        self.momentum = jnp.zeros_like(position)
        self.mass, self.gravity = float(mass), float(gravity)

    @property
    def length_of(self) -> Float[Array, " pendulum"]:
        """Lengths. [m]."""
        return self.length_scale**2

    def kinetic(self, momentum):
        return 0.5 * jnp.sum(momentum**2 / (self.mass * self.length_of**2))

    def potential(self, position, drive):
        lifted = self.mass * self.gravity * jnp.sum(self.length_of * (1 - jnp.cos(position)))
        return lifted + 0.5 * jnp.sum(self.coupling * jnp.diff(position) ** 2) - work(position, drive)


class LCLadder(_Driven):
    r"""Inductors in series, capacitors to ground; coordinates are charges $q$, momenta flux linkages $\phi$.

    $$H = \sum_k \frac{\phi_k^2}{2 L_k} + \sum_k \frac{(q_k - q_{k+1})^2}{2 C_k} - u\, q_0$$

    with $q_k$ the charge that has passed inductor $k$, a capacitor behind each of them, and a voltage source $u(t)$ in
    front. Values are trained as logarithms, so that they stay positive; take units that make them of order one (mH and
    uF give the time in sqrt(LC) = 31.6 us).

    Args:
        cells: Number of cells.
        inductance: Of each inductor.
        capacitance: Of each capacitor.
        step: Time step.
        samples: Length of an undriven run; None for a run driven by voltages [sample].
        substeps: Kicks for each sample.
        friction: As in `Oscillators`.
        window: Which readings become features; charges are read.

    Raises:
        ValueError: for no cells, or values that are not positive.
    """

    log_inductance: Float[Array, " cell"]
    log_capacitance: Float[Array, " cell"]
    position: Float[Array, " cell"]
    momentum: Float[Array, " cell"]
    step: float = eqx.field(static=True)
    samples: int | None = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    friction: float = eqx.field(static=True)
    window: Window

    def __init__(
        self,
        cells: int,
        *,
        inductance: float = 1.0,
        capacitance: float = 1.0,
        step: float = 0.1,
        samples: int | None = None,
        substeps: int = 1,
        friction: float = 0.0,
        window: Window | None = None,
    ):
        self.step, self.samples, self.substeps, self.friction, self.window = run_settings(
            cells, step, samples, substeps, friction, window
        )
        if not (inductance > 0 and capacitance > 0):
            raise ValueError(f"`inductance` and `capacitance` must be positive; got {inductance} and {capacitance}.")
        self.log_inductance = jnp.full(cells, math.log(inductance))
        self.log_capacitance = jnp.full(cells, math.log(capacitance))
        self.position, self.momentum = jnp.zeros(cells), jnp.zeros(cells)

    def kinetic(self, momentum):
        return 0.5 * jnp.sum(momentum**2 * jnp.exp(-self.log_inductance))

    def potential(self, position, drive):
        stored = position - jnp.append(position[1:], jnp.zeros(1, position.dtype))
        electric = 0.5 * jnp.sum(stored**2 * jnp.exp(-self.log_capacitance))
        return electric - (0.0 if drive is None else jnp.sum(drive) * position[0])


class LearnedPotential(_Driven):
    r"""A particle in a landscape that is learned.

    $$V = \tfrac12\kappa\lVert q\rVert^2 + \sum_j a_j \log\cosh(w_j\cdot q + b_j)$$

    Args:
        dimension: Of the particle's space.
        features: Number of ridges in the landscape.
        key: Random key.
        position: Where it starts; zero by default.
        momentum: How it starts; zero by default.
        step: Time step.
        samples: As in `Oscillators`.
        substeps: Kicks for each sample.
        friction: As in `Oscillators`.
        confinement: The harmonic part, which keeps the particle from escaping.
        window: Which readings become features.

    Raises:
        ValueError: for no dimension.
    """

    weight: Float[Array, "ridge coordinate"]
    bias: Float[Array, " ridge"]
    height: Float[Array, " ridge"]
    position: Float[Array, " coordinate"]
    momentum: Float[Array, " coordinate"]
    confinement: float = eqx.field(static=True)
    step: float = eqx.field(static=True)
    samples: int | None = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    friction: float = eqx.field(static=True)
    window: Window

    def __init__(
        self,
        dimension: int,
        features: int,
        *,
        key: PRNGKeyArray,
        position: Float[Array, " coordinate"] | None = None,
        momentum: Float[Array, " coordinate"] | None = None,
        step: float = 0.05,
        samples: int | None = None,
        substeps: int = 1,
        friction: float = 0.0,
        confinement: float = 1.0,
        window: Window | None = None,
    ):
        self.step, self.samples, self.substeps, self.friction, self.window = run_settings(
            min(dimension, features), step, samples, substeps, friction, window
        )
        weights, biases, heights = jax.random.split(key, 3)
        self.weight = jax.random.normal(weights, (features, dimension)) / math.sqrt(dimension)
        self.bias = jax.random.normal(biases, (features,))
        self.height = 0.3 * jax.random.normal(heights, (features,))
        self.position = jnp.zeros(dimension) if position is None else jnp.asarray(position)
        self.momentum = jnp.zeros(dimension) if momentum is None else jnp.asarray(momentum)
        self.confinement = float(confinement)

    def kinetic(self, momentum):
        return 0.5 * jnp.sum(momentum**2)

    def potential(self, position, drive):
        ridges = jnp.dot(self.weight, position) + self.bias
        landscape = jnp.sum(self.height * log_cosh(ridges))
        return 0.5 * self.confinement * jnp.sum(position**2) + landscape - work(position, drive)


@jax.custom_jvp
def log_cosh(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """The logarithm of cosh, without overflow; its derivative is tanh."""
    size = jnp.abs(x)
    return size + jnp.log1p(jnp.exp(-2 * size)) - math.log(2.0)


@log_cosh.defjvp
def _log_cosh_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return log_cosh(x), jnp.tanh(x) * tangent


def work(position: Inexact[Array, " coordinate"], drive: Inexact[Array, "..."] | None) -> Inexact[Array, ""] | float:
    """Work of a drive: a force on each coordinate, or one number for the first. [J]."""
    if drive is None:
        return 0.0
    return jnp.sum(drive * position) if jnp.ndim(drive) == 1 else drive * position[0]


def run_settings(
    count: int, step: float, samples: int | None, substeps: int, friction: float, window: Window | None
) -> tuple[float, int | None, int, float, Window]:
    """The settings of a run of `count` coordinates, checked; every sample is read by default.

    Raises:
        ValueError: for a run that cannot be.
    """
    if count < 1:
        raise ValueError(f"A system needs at least one coordinate; got {count}.")
    if eqx.is_array(step) or not (math.isfinite(step) and step > 0):
        raise ValueError(f"`step` must be a positive plain number; got {step!r}.")
    if substeps < 1 or (samples is not None and samples < 2):
        raise ValueError(f"`samples` must be at least 2 and `substeps` at least 1; got {samples} and {substeps}.")
    if eqx.is_array(friction) or not (math.isfinite(friction) and friction >= 0):
        raise ValueError(f"`friction` must be a plain number, zero or positive, and is not trained; got {friction!r}.")
    return float(step), samples, substeps, float(friction), EverySample() if window is None else window
