r"""Branch quantities: fixed values, and trainable ones in three parametrisations.

A trainable conductance is kept within its bounds by projection (`Plain`), or by being written as
$g = \mathrm{softplus}(w)$ or $g = e^w$; then $\mathrm{d}C/\mathrm{d}w = \mathrm{d}C/\mathrm{d}g\cdot g'(w)$
comes by the chain rule. The logarithm is the natural coordinate of a memristor.
"""

import abc
import hashlib
import math
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.dtypes import canonicalize_dtype
from jaxtyping import Array, Float

from eqprop.substrates.circuit.units import number

__all__ = ["Constant", "Fixed", "Log", "Plain", "Quantity", "Softplus", "as_quantity", "finite"]


Value = float | int | str | np.ndarray | np.generic | Array
"""A number, engineering notation, or an array."""

V = TypeVar("V", bound=Value)


class Constant:
    """A NumPy array that is part of the structure: immutable, hashed and compared by content."""

    __slots__ = ("_digest", "array")

    def __init__(self, array: np.ndarray):
        """Copy `array`."""
        self.array = np.array(array)
        self.array.setflags(write=False)
        head = f"{self.array.shape}{self.array.dtype}".encode()
        self._digest = hashlib.sha256(head + self.array.tobytes()).digest()

    def __hash__(self):
        return hash(self._digest)

    def __eq__(self, other):
        return isinstance(other, Constant) and self._digest == other._digest

    def __repr__(self):
        return f"Constant({self.array.dtype}{list(self.array.shape)})"


class Quantity(eqx.Module):
    """A physical quantity of a group of branches. `value` is it, in SI units."""

    value: eqx.AbstractVar[Float[Array, "*branch"]]
    """The quantity. [its SI unit]"""

    @abc.abstractmethod
    def at(self, value: Value) -> "Quantity":
        """The same quantity, at another value. [its SI unit]"""

    @property
    @abc.abstractmethod
    def trainable(self) -> bool:
        """Whether it holds parameters."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Within which it stays when trained. [its SI unit]"""
        return (-math.inf, math.inf)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return jnp.shape(self.value)


class Fixed(Quantity):
    """A quantity that is not trained, and no parameter."""

    constant: Constant = eqx.field(static=True)

    def __init__(self, value: Value):
        self.constant = Constant(finite("Fixed", np.asarray(number(value), float)))

    @property
    def value(self):
        return self.constant.array

    def at(self, value):
        return Fixed(np.broadcast_to(np.asarray(value), np.shape(value)))

    @property
    def trainable(self):
        return False


class Plain(Quantity):
    """Trained as it is, and projected on `lower <= value <= upper` after each update. The default."""

    value: Float[Array, "*branch"]
    lower: float = eqx.field(static=True)
    upper: float = eqx.field(static=True)

    def __init__(
        self,
        value: Value,
        *,
        lower: float | int | str = -math.inf,
        upper: float | int | str = math.inf,
    ):
        self.value = jnp.asarray(finite("Plain", number(value)), _float(value))
        self.lower, self.upper = float(number(lower)), float(number(upper))
        if not self.lower <= self.upper:
            raise ValueError(f"`bounds` ({lower}, {upper}) are the wrong way round; give (lower, upper).")

    def at(self, value):
        return eqx.tree_at(lambda q: q.value, self, jnp.asarray(value, self.value.dtype))

    @property
    def trainable(self):
        return True

    @property
    def bounds(self):
        return (self.lower, self.upper)


class Softplus(Quantity):
    r"""$g = u\ln(1 + e^w)$, positive; trained in the raw $w$. The unit $u$ makes $w$ a number of order one."""

    raw: Float[Array, "*branch"]
    unit: float = eqx.field(static=True)

    def __init__(self, value: Value, *, unit: float | int | str | None = None):
        positive = _positive("Softplus", value)
        self.unit = _unit("Softplus", positive, unit, np.mean)
        self.raw = jnp.asarray(_inverse_softplus(positive / self.unit), _float(value))

    @property
    def value(self):
        return self.unit * jax.nn.softplus(self.raw)

    def at(self, value):
        return eqx.tree_at(lambda q: q.raw, self, _inverse_softplus(jnp.asarray(value, self.raw.dtype) / self.unit))

    @property
    def trainable(self):
        return True

    @property
    def bounds(self):
        return (0.0, math.inf)


class Log(Quantity):
    r"""$g = u\,e^w$, positive; trained in the raw $w$."""

    raw: Float[Array, "*branch"]
    unit: float = eqx.field(static=True)

    def __init__(self, value: Value, *, unit: float | int | str | None = None):
        positive = _positive("Log", value)
        self.unit = _unit("Log", positive, unit, lambda v: np.exp(np.mean(np.log(v))))
        self.raw = jnp.asarray(_module(positive).log(positive / self.unit), _float(value))

    @property
    def value(self):
        return self.unit * jnp.exp(self.raw)

    def at(self, value):
        return eqx.tree_at(lambda q: q.raw, self, jnp.log(jnp.asarray(value, self.raw.dtype) / self.unit))

    @property
    def trainable(self):
        return True

    @property
    def bounds(self):
        return (0.0, math.inf)


def as_quantity(
    name: str,
    value: Value | Quantity,
    shape: tuple[int, ...],
    *,
    trainable: bool = False,
    bounds: tuple[float | int | str, float | int | str] = (-math.inf, math.inf),
) -> Quantity:
    """A quantity for `shape` branches from what a builder was given.

    Args:
        name: For messages: whose value it is.
        value: A number, engineering notation, an array that broadcasts to `shape`, or a `Quantity`.
        shape: Shape of the group.
        trainable: Whether a plain value is to be trained.
        bounds: Of a trained plain value.

    Raises:
        ValueError: for values that are not finite, or do not fit the shape.
    """
    if isinstance(value, Quantity):
        if value.shape not in ((), shape):
            raise ValueError(f"{name} has shape {value.shape}; its group has shape {shape}.")
        return value if value.shape == shape else value.at(jnp.broadcast_to(value.value, shape))
    array = finite(name, np.asarray(number(value), float))
    try:
        array = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name} has shape {array.shape}, which does not fit its group of shape {shape}.") from None
    if not trainable:
        return Fixed(array)
    return Plain(jnp.asarray(array, _float(value)), lower=bounds[0], upper=bounds[1])


def finite(name: str, value: V) -> V:
    """`value`, if no entry is NaN or infinite; else ValueError naming the first."""
    if isinstance(value, Tracer) or np.isfinite(np.asarray(value)).all():
        return value
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(value)))[0])
    where = f" at index {list(index)}" if index else ""
    raise ValueError(f"{name} is {np.asarray(value)[index]}{where}; every value of a circuit must be finite.")


def _positive(kind, value):
    """The value in float64, so that raw parameters are rounded once; a traced one as it is."""
    if isinstance(value, Tracer):
        return eqx.error_if(
            value, ~jnp.all(value > 0), f"`{kind}` holds positive values only. Use `Plain` with bounds."
        )
    value = finite(kind, np.asarray(number(value), float))
    if not (value > 0).all():
        raise ValueError(f"`{kind}` holds positive values only; got {value.min()}. Use `Plain` with bounds.")
    return value


def _unit(kind, value, unit, typical):
    if unit is not None:
        return float(number(unit))
    if isinstance(value, Tracer):
        raise ValueError(f"`{kind}` cannot choose its unit inside `jit`, where values are not known; give `unit=`.")
    return float(typical(value))


def _inverse_softplus(scaled):
    module = _module(scaled)
    return scaled + module.log(-module.expm1(-scaled))


def _module(value):
    return jnp if isinstance(value, jax.Array) else np


def _float(value):
    """The number type that a parameter takes over from a value: an array's own, else JAX's default."""
    array = isinstance(value, jax.Array | np.ndarray | np.generic)
    return canonicalize_dtype(value.dtype) if array and jnp.issubdtype(value.dtype, jnp.inexact) else float
