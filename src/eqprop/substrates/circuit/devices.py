r"""Two-terminal devices: branch current $i(u)$ and co-content $\hat G(u) = \int_0^u i(w)\,\mathrm{d}w$ [W].

A device is admissible where $i$ does not decrease: then $\hat G$ is convex and the operating point of a network is
the minimum of the sum. Each device is a final module; what may be trained in it is a `Quantity`.

Source:
    W. Millar, Some general theorems for non-linear systems possessing resistance, 1951. For the diode below $-3nV_T$:
    ngspice user's manual, section 7 (and the model code of its diode, `dioload.c`).
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from eqprop.substrates.circuit.quantity import Fixed, Quantity
from eqprop.substrates.circuit.units import number

__all__ = [
    "AntiparallelDiodes",
    "Device",
    "IdealDiode",
    "NortonSource",
    "PiecewiseLinearDiode",
    "Resistor",
    "ShockleyDiode",
    "SpiceDiode",
    "thermal_voltage",
]

LARGEST_EXPONENT = 80.0
"""Beyond it an exponential goes on as a straight line, so that no trial step of a solver overflows (float32 ends at
88). At this exponent a diode carries 10³⁴ times its saturation current: no operating point is affected."""


def thermal_voltage(celsius: float = 27.0) -> float:
    """$kT/q$, with the constants of ngspice (CODATA 2014). [V]"""
    return 1.38064852e-23 * (celsius + 273.15) / 1.6021766208e-19


class Device(eqx.Module):
    """A two-terminal device, or a group of them: quantities of shape () or [branch]."""

    linear: ClassVar[bool] = False
    """Whether the current is affine in the voltage, hence the conductance a constant."""

    @abc.abstractmethod
    def current(self, voltage: Float[Array, " branch"]) -> Float[Array, " branch"]:
        """Branch current from tail to head. [A]"""

    @abc.abstractmethod
    def cocontent(self, voltage: Float[Array, " branch"]) -> Float[Array, " branch"]:
        """Integral of the current over the voltage, from zero. [W]"""

    @abc.abstractmethod
    def slope(self, voltage: Float[Array, " branch"]) -> Float[Array, " branch"]:
        """Differential conductance, the derivative of the current. [S]"""

    @abc.abstractmethod
    def quantities(self) -> dict[str, Quantity]:
        """Its quantities by name."""


class Resistor(Device):
    r"""$i = g u$, $\hat G = \tfrac12 g u^2$: half the dissipated power."""

    conductance: Quantity
    """Conductance. [S]"""
    linear: ClassVar[bool] = True

    def current(self, voltage):
        return like(self.conductance, voltage) * voltage

    def cocontent(self, voltage):
        return 0.5 * like(self.conductance, voltage) * voltage**2

    def slope(self, voltage):
        return jnp.broadcast_to(like(self.conductance, voltage), voltage.shape)

    def quantities(self):
        return {"conductance": self.conductance}


class NortonSource(Device):
    r"""A voltage source behind a resistor: $i = g(u - E)$, $\hat G = \tfrac12 g[(u - E)^2 - E^2]$."""

    conductance: Quantity
    """Conductance. [S]"""
    voltage: Quantity
    """Open-circuit voltage $E$. [V]"""
    linear: ClassVar[bool] = True

    def current(self, voltage):
        return like(self.conductance, voltage) * (voltage - like(self.voltage, voltage))

    def cocontent(self, voltage):
        return like(self.conductance, voltage) * voltage * (0.5 * voltage - like(self.voltage, voltage))

    def slope(self, voltage):
        return jnp.broadcast_to(like(self.conductance, voltage), voltage.shape)

    def quantities(self):
        return {"conductance": self.conductance, "voltage": self.voltage}


class IdealDiode(Device):
    r"""No current for $u < 0$, no voltage above 0: the constraint $u \le 0$, whose multiplier is the current.

    One terminal must be held by constant sources, so that the constraint is a bound on a node.
    """

    def current(self, voltage):
        return jnp.zeros_like(voltage)

    def cocontent(self, voltage):
        return jnp.zeros_like(voltage)

    def slope(self, voltage):
        return jnp.zeros_like(voltage)

    def quantities(self):
        return {}


class PiecewiseLinearDiode(Device):
    r"""$i = g\max(u - u_0, 0)$, $\hat G = \tfrac12 g\max(u - u_0, 0)^2$ for $u_0 \ge 0$.

    Args:
        on_conductance: Slope $g$ when conducting. [S]
        threshold: Voltage $u_0$ at which it begins to conduct. [V]
    """

    on_conductance: Quantity
    threshold: Quantity

    def __init__(
        self, on_conductance: float | int | str | Quantity = 1.0, threshold: float | int | str | Quantity = 0.0
    ):
        self.on_conductance = _positive("PiecewiseLinearDiode.on_conductance", on_conductance)
        self.threshold = _quantity(threshold)

    def _excess(self, voltage):
        return jnp.maximum(voltage - like(self.threshold, voltage), 0)

    def current(self, voltage):
        return like(self.on_conductance, voltage) * self._excess(voltage)

    def cocontent(self, voltage):
        return 0.5 * like(self.on_conductance, voltage) * self._excess(voltage) ** 2

    def slope(self, voltage):
        conducting = voltage > like(self.threshold, voltage)
        return jnp.where(conducting, like(self.on_conductance, voltage), jnp.zeros((), voltage.dtype))

    def quantities(self):
        return {"on_conductance": self.on_conductance, "threshold": self.threshold}


class ShockleyDiode(Device):
    r"""$i = I_s(e^{u/nV_T} - 1)$, $\hat G = I_s[nV_T(e^{u/nV_T} - 1) - u]$.

    Args:
        saturation_current: $I_s > 0$. [A]
        emission: Emission coefficient $n > 0$.
        celsius: Temperature. [°C]
    """

    saturation_current: Quantity
    emission: Quantity
    celsius: float = eqx.field(static=True)

    def __init__(
        self,
        saturation_current: float | int | str | Quantity = 1e-14,
        emission: float | int | Quantity = 1.0,
        *,
        celsius: float | int = 27.0,
    ):
        self.saturation_current = _positive("ShockleyDiode.saturation_current", saturation_current)
        self.emission = _positive("ShockleyDiode.emission", emission)
        self.celsius = float(celsius)

    def _scale(self, voltage):
        return like(self.saturation_current, voltage), like(self.emission, voltage) * thermal_voltage(self.celsius)

    def current(self, voltage):
        saturation, scale = self._scale(voltage)
        return saturation * _expm1(voltage / scale)

    def cocontent(self, voltage):
        saturation, scale = self._scale(voltage)
        return saturation * (scale * _integral_of_expm1(voltage / scale))

    def slope(self, voltage):
        saturation, scale = self._scale(voltage)
        return saturation / scale * jnp.exp(jnp.minimum(voltage / scale, LARGEST_EXPONENT))

    def quantities(self):
        return {"saturation_current": self.saturation_current, "emission": self.emission}


class SpiceDiode(Device):
    r"""The junction diode of ngspice, to the last digit.

    Shockley's law for $u \ge -3nV_T$; below, $i = -I_s[1 + (3nV_T/(e\,u))^3]$; and $g_\mathrm{min}u$ in parallel.

    Args:
        saturation_current: $I_s > 0$. [A]
        emission: Emission coefficient $n > 0$.
        minimal_conductance: $g_\mathrm{min}$, across the junction; the simulator's default is 10⁻¹² S. [S]
        celsius: Temperature; the simulator's default is 27 °C. [°C]
    """

    saturation_current: Quantity
    emission: Quantity
    minimal_conductance: float = eqx.field(static=True)
    celsius: float = eqx.field(static=True)

    def __init__(
        self,
        saturation_current: float | int | str | Quantity = 1e-14,
        emission: float | int | Quantity = 1.0,
        *,
        minimal_conductance: float | int | str = 1e-12,
        celsius: float | int = 27.0,
    ):
        self.saturation_current = _positive("SpiceDiode.saturation_current", saturation_current)
        self.emission = _positive("SpiceDiode.emission", emission)
        self.minimal_conductance = float(number(minimal_conductance))
        self.celsius = float(celsius)
        if not 0 <= self.minimal_conductance < math.inf:
            raise ValueError(f"`minimal_conductance` must not be negative, in siemens; got {minimal_conductance}.")

    def _split(self, voltage):
        """Saturation current, $nV_T$, whether in the reverse piece, and the voltage safe for each of the pieces."""
        saturation = like(self.saturation_current, voltage)
        scale = like(self.emission, voltage) * thermal_voltage(self.celsius)
        reverse = voltage < -3 * scale
        # Each piece sees a voltage of its own side: the other side's derivative would be NaN, also where not taken.
        return (
            saturation,
            scale,
            reverse,
            jnp.where(reverse, -3 * scale, voltage),
            jnp.where(reverse, voltage, -3 * scale),
        )

    def current(self, voltage):
        saturation, scale, reverse, above, below = self._split(voltage)
        forward = saturation * _expm1(above / scale)
        backward = -saturation * (1 + (3 * scale / (math.e * below)) ** 3)
        return jnp.where(reverse, backward, forward) + self.minimal_conductance * voltage

    def cocontent(self, voltage):
        saturation, scale, reverse, above, below = self._split(voltage)
        seam = -3 * scale
        forward = saturation * (scale * _integral_of_expm1(above / scale))
        cubic = 0.5 * (3 * scale / math.e) ** 3 * (1 / below**2 - 1 / seam**2)
        backward = jnp.where(reverse, saturation * (seam - below + cubic), jnp.zeros_like(voltage))
        return forward + backward + 0.5 * self.minimal_conductance * voltage**2

    def slope(self, voltage):
        saturation, scale, reverse, above, below = self._split(voltage)
        forward = saturation / scale * jnp.exp(jnp.minimum(above / scale, LARGEST_EXPONENT))
        backward = 3 * saturation / below * (3 * scale / (math.e * below)) ** 3
        return jnp.where(reverse, backward, forward) + self.minimal_conductance

    def quantities(self):
        return {"saturation_current": self.saturation_current, "emission": self.emission}


class AntiparallelDiodes(Device):
    r"""Two equal diodes, one each way: $i(u) = d(u) - d(-u)$; with Shockley's law $2I_s\sinh(u/nV_T)$.

    Args:
        diode: The diode $d$; Shockley's by default.
    """

    diode: Device

    def __init__(self, diode: Device | None = None):
        self.diode = ShockleyDiode() if diode is None else diode
        if self.diode.linear or isinstance(self.diode, IdealDiode | AntiparallelDiodes):
            raise ValueError(
                f"`AntiparallelDiodes.diode` is a `{type(self.diode).__name__}`; give one that conducts one way, such "
                "as `ShockleyDiode` (for ideal diodes: two `diodes`, each to a source of its own)."
            )

    def current(self, voltage):
        return self.diode.current(voltage) - self.diode.current(-voltage)

    def cocontent(self, voltage):
        return self.diode.cocontent(voltage) + self.diode.cocontent(-voltage)

    def slope(self, voltage):
        return self.diode.slope(voltage) + self.diode.slope(-voltage)

    def quantities(self):
        return self.diode.quantities()


def like(quantity: Quantity, voltage: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """A quantity's value in the number type of the voltages."""
    return jnp.asarray(quantity.value, voltage.dtype)


def _expm1(x):
    inside = jnp.minimum(x, LARGEST_EXPONENT)
    grown = jnp.expm1(inside)
    return grown + (grown + 1) * (x - inside)


def _integral_of_expm1(x):
    """Of $e^w - 1$ from 0 to x: $e^x - 1 - x$, by its series near 0, where the difference would cancel."""
    inside = jnp.minimum(x, LARGEST_EXPONENT)
    beyond = x - inside
    whole = jnp.expm1(inside) - inside + beyond * (jnp.expm1(inside) + 0.5 * jnp.exp(inside) * beyond)
    small = jnp.where(jnp.abs(x) < 0.02, x, jnp.zeros_like(x))
    # Six terms: the next is 0.02⁶/20160 of the first, below rounding.
    series = small**2 * (
        0.5 + small * (1 / 6 + small * (1 / 24 + small * (1 / 120 + small * (1 / 720 + small / 5040))))
    )
    return jnp.where(jnp.abs(x) < 0.02, series, whole)


def _quantity(value):
    return value if isinstance(value, Quantity) else Fixed(value)


def _positive(name, value):
    quantity = _quantity(value)
    if not bool(jnp.all(jnp.asarray(quantity.value) > 0)):
        raise ValueError(f"`{name}` must be positive; got {float(jnp.min(jnp.asarray(quantity.value))):g}.")
    return quantity
