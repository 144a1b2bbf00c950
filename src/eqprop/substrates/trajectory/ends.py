r"""What is held fixed at the ends of a path, so that the boundary terms of the action's variation vanish.

The variation of the action leaves $[p\cdot\delta q]_0^T$. It is zero where the positions are held (`FixedEnds`,
`GivenEnds`), where both ends are one (`Periodic`), or where the momentum itself is zero (`NaturalEnds`). Position and
momentum both given at the start are not on the list: for that there are `Hamiltonian` systems and their echo.
"""

import abc
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

__all__ = ["Ends", "FixedEnds", "GivenEnds", "NaturalEnds", "Periodic"]


class Ends(eqx.Module):
    """The condition at the ends of a path of `steps` steps, hence `steps + 1` points."""

    @property
    def closed(self) -> bool:
        """Whether the last point is the first."""
        return False

    @abc.abstractmethod
    def free(self, steps: int) -> range:
        """Which points are free to move, hence the state."""

    @abc.abstractmethod
    def path(self, state: Inexact[Array, "free coordinate"], inputs: PyTree) -> Inexact[Array, "point coordinate"]:
        """All points, the held ones included."""

    @abc.abstractmethod
    def start(self, steps: int, dimension: int, inputs: PyTree) -> Float[Array, "free coordinate"]:
        """A path to begin settling at: as straight as the ends allow."""

    def drive(self, inputs: PyTree) -> PyTree:
        """The drive among the inputs, leading axis the point; the inputs themselves by default."""
        return inputs

    def energy(self, path: Inexact[Array, "point coordinate"]) -> Inexact[Array, ""] | float:
        """What the ends add to the action. [J s]."""
        del path
        return 0.0

    def pins(self, steps: int, dimension: int) -> Float[np.ndarray, "free coordinate"] | None:
        """Values at which coordinates of the state are held, NaN where they move; None for no pins."""
        del steps, dimension
        return None

    def check(self, dimension: int) -> None:
        """Raise ValueError unless the ends fit a system of this dimension."""
        del dimension


class FixedEnds(Ends):
    """Both ends held: `first` at time 0, `last` at the end, in the coordinates' unit. Plain numbers.

    Raises:
        ValueError: for JAX arrays, which would be parameters.
    """

    first: tuple[float, ...] = eqx.field(static=True)
    last: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, first: Sequence[float] | ArrayLike, last: Sequence[float] | ArrayLike):
        self.first = _numbers("FixedEnds.first", first)
        self.last = _numbers("FixedEnds.last", last)

    def free(self, steps):
        return range(1, steps)

    def path(self, state, inputs):
        first, last = (jnp.asarray(end, state.dtype)[None] for end in (self.first, self.last))
        return jnp.concatenate([first, state, last])

    def start(self, steps, dimension, inputs):
        return _straight(jnp.asarray(self.first, float), jnp.asarray(self.last, float), steps)

    def check(self, dimension):
        for name, end in (("first", self.first), ("last", self.last)):
            if len(end) != dimension:
                raise ValueError(
                    f"`FixedEnds.{name}` has {len(end)} numbers; the Lagrangian has {dimension} coordinates."
                )


class GivenEnds(Ends):
    """Both ends held where the inputs say: `inputs = {"first": q0, "last": qT}`, and `"drive"` if there is one.

    The gradient in the inputs then includes that in the ends.
    """

    def free(self, steps):
        return range(1, steps)

    def path(self, state, inputs):
        first, last = _given(inputs)
        return jnp.concatenate([first.astype(state.dtype)[None], state, last.astype(state.dtype)[None]])

    def start(self, steps, dimension, inputs):
        first, last = _given(inputs)
        if first.shape != (dimension,) or last.shape != (dimension,):
            raise ValueError(
                f"`inputs` must give `first` and `last` with {dimension} coordinates each; got shapes "
                f"{first.shape} and {last.shape}."
            )
        return _straight(first, last, steps)

    def drive(self, inputs):
        return inputs.get("drive")


class Periodic(Ends):
    """The path closes on itself after the duration. The state is points 0 to steps - 1.

    An autonomous system needs `pin = (coordinate, value)`: that coordinate of point 0 is held, which chooses one among
    the path's shifts in time. A driven system needs none.
    """

    pin: tuple[int, float] | None = eqx.field(static=True)

    def __init__(self, pin: object = None):
        if pin is None:
            self.pin = None
            return
        if not isinstance(pin, tuple) or len(pin) != 2 or isinstance(pin[0], bool) or not isinstance(pin[0], int):
            raise ValueError(f"`Periodic.pin` must be (number of the coordinate, its value at point 0); got {pin!r}.")
        value = _numbers("Periodic.pin", pin[1])
        if len(value) != 1:
            raise ValueError(
                f"`Periodic.pin` holds one coordinate at one value; got {len(value)} values for coordinate {pin[0]}. "
                "One is enough to choose among the path's shifts in time."
            )
        self.pin = (pin[0], value[0])

    @property
    def closed(self):
        return True

    def free(self, steps):
        return range(steps)

    def path(self, state, inputs):
        return jnp.concatenate([state, state[:1]])

    def start(self, steps, dimension, inputs):
        return jnp.zeros((steps, dimension))

    def pins(self, steps, dimension):
        if self.pin is None:
            return None
        held = np.full((steps, dimension), np.nan)
        held[0, self.pin[0]] = self.pin[1]
        return held

    def check(self, dimension):
        if self.pin is not None and not 0 <= self.pin[0] < dimension:
            raise ValueError(f"`Periodic.pin` names coordinate {self.pin[0]}; the Lagrangian has 0 to {dimension - 1}.")


class NaturalEnds(Ends):
    """Ends that move freely: the momentum is zero there, or what `end_energy` makes it.

    Args:
        first: Where the path is held at time 0; None for a free start too.
        end_energy: Of the last position, added to the action [J s]; a module whose arrays are trained, or a function.
    """

    first: tuple[float, ...] | None = eqx.field(static=True)
    end_energy: Callable[[Inexact[Array, " coordinate"]], Inexact[Array, ""]] | None

    def __init__(
        self,
        first: Sequence[float] | ArrayLike | None = None,
        end_energy: Callable[[Inexact[Array, " coordinate"]], Inexact[Array, ""]] | None = None,
    ):
        self.first = None if first is None else _numbers("NaturalEnds.first", first)
        self.end_energy = end_energy

    def free(self, steps):
        return range(0 if self.first is None else 1, steps + 1)

    def path(self, state, inputs):
        if self.first is None:
            return state
        return jnp.concatenate([jnp.asarray(self.first, state.dtype)[None], state])

    def start(self, steps, dimension, inputs):
        place = jnp.zeros(dimension) if self.first is None else jnp.asarray(self.first, float)
        return jnp.broadcast_to(place, (len(self.free(steps)), dimension))

    def energy(self, path):
        return 0.0 if self.end_energy is None else self.end_energy(path[-1])

    def check(self, dimension):
        if self.first is not None and len(self.first) != dimension:
            raise ValueError(
                f"`NaturalEnds.first` has {len(self.first)} numbers; the Lagrangian has {dimension} coordinates."
            )


def _numbers(name, values):
    """Plain floats; JAX arrays are refused, because they would be parameters."""
    if eqx.is_array(values) or any(eqx.is_array(v) for v in np.atleast_1d(np.asarray(values, dtype=object))):
        raise ValueError(
            f"`{name}` is a JAX array and would be a parameter; what holds at the ends must not be trained. Give plain "
            "numbers, or take the ends from the inputs with `GivenEnds`."
        )
    numbers = tuple(float(v) for v in np.atleast_1d(np.asarray(values, dtype=float)))
    if not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"`{name}` must be finite; got {numbers}.")
    return numbers


def _given(inputs):
    if not isinstance(inputs, dict) or not {"first", "last"} <= set(inputs):
        raise ValueError('`GivenEnds` takes `inputs = {"first": ..., "last": ...}`, and "drive" if there is one.')
    return jnp.asarray(inputs["first"]), jnp.asarray(inputs["last"])


def _straight(first, last, steps):
    along = jnp.arange(1, steps, dtype=first.dtype)[:, None] / steps
    return first[None] * (1 - along) + last[None] * along
