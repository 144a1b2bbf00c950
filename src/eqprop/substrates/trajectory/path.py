r"""Paths of stationary action between given ends.

$$S[q] = \int_0^T L(q, \dot q, t, u)\,dt
\approx \sum_k \tfrac h2\bigl[L(q_k, v_k, t_k, u_k) + L(q_{k+1}, v_k, t_{k+1}, u_{k+1})\bigr],
\qquad v_k = \frac{q_{k+1} - q_k}{h}$$

The path is discretised first: the state is its free points, the energy the discrete action, and the gradient exact for
the discrete cost. For $L = \tfrac12 m\dot q^2 - V$ the stationary paths are those of the Verlet method.

Source:
    J. E. Marsden and M. West, Discrete mechanics and variational integrators, 2001;
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 6.1.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

from eqprop.motion import Chain
from eqprop.substrates.trajectory.ends import Ends, FixedEnds

__all__ = ["Lagrangian", "Path"]


class Lagrangian(eqx.Module):
    """The Lagrangian of a system of `dimension` coordinates; its own JAX arrays are the parameters."""

    dimension: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(
        self,
        position: Inexact[Array, " coordinate"],
        velocity: Inexact[Array, " coordinate"],
        time: Float[Array, ""],
        drive: PyTree,
    ) -> Inexact[Array, ""]:
        """Kinetic minus potential energy. [J]."""

    def domain(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Open interval of each coordinate in which the Lagrangian makes sense; None for all of space."""
        return None


class Path(Chain):
    """A Lagrangian system between given ends; its energy is the discrete action. [J s].

    Args:
        lagrangian: The Lagrangian.
        ends: What is held fixed.
        steps: Number of time steps.
        duration: From the first point to the last; a plain number, never trained. [s]
        times: Numbers of the points that are read, all free ones by default.
        coordinates: Numbers of the coordinates that are read, all by default.

    Raises:
        ValueError: for a duration that is no positive number, ends that do not fit or lie outside the Lagrangian's
            domain, and readings of points that are held.
    """

    lagrangian: Lagrangian
    ends: Ends
    steps: int = eqx.field(static=True)
    duration: float = eqx.field(static=True)
    times: tuple[int, ...] = eqx.field(static=True)
    coordinates: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        lagrangian: Lagrangian,
        ends: Ends,
        *,
        steps: int,
        duration: ArrayLike,
        times: tuple[int, ...] | None = None,
        coordinates: tuple[int, ...] | None = None,
    ):
        if eqx.is_array(duration) or not 0 < float(duration) < math.inf:
            raise ValueError(
                f"`duration` must be a positive plain number, in seconds; got {duration!r}. It is what holds at the "
                "ends, and is not trained."
            )
        if steps < 3:
            raise ValueError(f"`steps` must be at least 3; got {steps}.")
        self.lagrangian = lagrangian
        self.ends = ends
        self.steps = int(steps)
        self.duration = float(duration)
        free = ends.free(self.steps)
        self.times = tuple(free) if times is None else tuple(int(t) for t in times)
        dimension = lagrangian.dimension
        self.coordinates = tuple(range(dimension)) if coordinates is None else tuple(int(c) for c in coordinates)
        held = [t for t in self.times if t not in free]
        if held or not self.times:
            raise ValueError(
                f"`times` must name free points, {free.start} to {free.stop - 1} with these ends; got {held or 'none'}."
            )
        if any(not 0 <= c < dimension for c in self.coordinates) or not self.coordinates:
            raise ValueError(f"`coordinates` must lie in 0 to {dimension - 1}; got {self.coordinates}.")
        ends.check(dimension)
        _check_domain(lagrangian, ends)

    @property
    def step(self) -> float:
        """Time step. [s]."""
        return self.duration / self.steps

    @property
    def closed(self):
        return self.ends.closed

    def energy(self, state, inputs):
        path = self.ends.path(state, inputs)
        return jnp.sum(self.link_actions(path, self.ends.drive(inputs))) + self.ends.energy(path)

    def link_actions(self, path: Inexact[Array, "point coordinate"], drive: PyTree = None) -> Inexact[Array, " link"]:
        """The discrete Lagrangian of each step. [J s]."""
        drive = self._by_point(drive)
        points = jnp.arange(self.steps + 1, dtype=path.real.dtype) * self.step

        def link(left, right, begin, end, drive_left, drive_right):
            return link_action(self.lagrangian, left, right, begin, end, drive_left, drive_right)

        early, late = (jax.tree.map(lambda leaf, s=s: leaf[s], drive) for s in (slice(None, -1), slice(1, None)))
        return jax.vmap(link)(path[:-1], path[1:], points[:-1], points[1:], early, late)

    def initial_state(self, inputs):
        start = self.ends.start(self.steps, self.lagrangian.dimension, inputs)
        leaves = [leaf for leaf in jax.tree.leaves((self.lagrangian, inputs)) if eqx.is_inexact_array(leaf)]
        start = start.astype(jnp.result_type(*leaves)) if leaves else start
        pins = self.ends.pins(self.steps, self.lagrangian.dimension)
        return start if pins is None else jnp.where(jnp.isnan(pins), start, jnp.asarray(pins, start.dtype))

    def output(self, state):
        """Positions at the times that are read, an array [time, coordinate]."""
        first = self.ends.free(self.steps).start
        return state[np.asarray(self.times) - first][:, np.asarray(self.coordinates)]

    def bounds(self):
        pins = self.ends.pins(self.steps, self.lagrangian.dimension)
        if pins is None:
            return None
        lower, upper = np.where(np.isnan(pins), -np.inf, pins), np.where(np.isnan(pins), np.inf, pins)
        dtype = jnp.zeros(()).dtype
        return jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)

    def weights(self) -> Float[np.ndarray, " time"]:
        """Weights that make a sum over the times read the integral over time (trapezoid), for `RunningCost`. [s]."""
        times = np.asarray(self.times, float) * self.step
        if self.closed:
            later, earlier = np.roll(times, -1), np.roll(times, 1)
            later[-1] += self.duration
            earlier[0] -= self.duration
            return (later - earlier) / 2
        free = self.ends.free(self.steps)
        before = [] if free.start == 0 and self.times[0] == 0 else [0.0]
        after = [] if free.stop == self.steps + 1 and self.times[-1] == self.steps else [self.duration]
        nodes = np.concatenate([before, times, after])
        weights = np.zeros_like(nodes)
        weights[:-1] += np.diff(nodes) / 2
        weights[1:] += np.diff(nodes) / 2
        return weights[len(before) : len(nodes) - len(after)]

    def _by_point(self, drive):
        """The drive at all points; a periodic drive may leave out its last, which is the first."""
        wanted = self.steps + 1
        for leaf in jax.tree.leaves(drive):
            if leaf.shape[0] not in ((wanted, self.steps) if self.closed else (wanted,)):
                raise ValueError(
                    f"The drive must have one entry for each of the {wanted} points of the path; got {leaf.shape[0]}."
                )
        return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == wanted else jnp.concatenate([leaf, leaf[:1]]), drive)


def link_action(lagrangian: Lagrangian, left, right, begin, end, drive_left, drive_right) -> Inexact[Array, ""]:
    """The discrete Lagrangian of one step: its trapezoid mean, at the step's mean velocity. [J s]."""
    step = end - begin
    velocity = (right - left) / step
    here = lagrangian(left, velocity, begin, drive_left)
    there = lagrangian(right, velocity, end, drive_right)
    return 0.5 * step * (here + there)


def _check_domain(lagrangian, ends):
    domain = lagrangian.domain()
    if domain is None:
        return
    lower, upper = (np.asarray(side) for side in domain)
    for name in ("first", "last"):
        end = getattr(ends, name, None) if isinstance(ends, FixedEnds) or name == "first" else None
        if end is not None and not (np.all(lower < end) and np.all(end < upper)):
            raise ValueError(
                f"The end `{name}` = {end} lies outside the domain of `{type(lagrangian).__name__}`, {tuple(lower)} to "
                f"{tuple(upper)}. Move it inside."
            )
