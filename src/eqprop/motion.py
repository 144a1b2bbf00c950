r"""Systems in motion: what a system declares so that a solver can use the structure that time gives its state.

* `Chain`: the state is a row of points, each coupled to its two neighbours only. The second derivative of the energy
  is then block tridiagonal (cyclic, for a closed chain). A discretised action is of this kind.
* `Hamiltonian`: positions and momenta run forward from given initial values. The discrete path of the leapfrog
  (kicks at points $q_0 \dots q_N$, drifts between them) makes
  $$A = \sum_k w_k V(q_k, u_k) + \sum_k \bigl[h K(p_{k+1/2}) - p_{k+1/2}\cdot(q_{k+1} - q_k)\bigr]$$
  stationary, minus the discrete phase-space action, with $w_k = h$, half of it at both ends. Its explicit derivative in
  a parameter is the time integral of $\partial H/\partial\theta$. Friction of one rate $\gamma$ for all momenta keeps
  an action: the same sum with the weight $e^{\gamma(t - T)}$ at the time $t$ of each of its terms.

Source:
    P. Caldirola, Forze non conservative nella meccanica quantistica, 1941 (the weight that friction asks for);
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025;
    J. E. Marsden and M. West, Discrete mechanics and variational integrators, 2001.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PyTree

from eqprop.system import System

__all__ = [
    "Chain",
    "EverySample",
    "Hamiltonian",
    "PhasePath",
    "Pooled",
    "RunEnd",
    "Stack",
    "Window",
    "fading",
    "kick_weights",
]


class Chain(System):
    """A system whose state is one array [point, coordinate], each point coupled to its two neighbours only."""

    @property
    @abc.abstractmethod
    def closed(self) -> bool:
        """Whether the last point is a neighbour of the first."""


class Window(eqx.Module):
    """Which readings of a run become features: every one, or weighted sums of them. Linear in the readings."""

    @abc.abstractmethod
    def start(self, reading: PyTree, samples: int) -> Inexact[Array, "..."] | None:
        """The empty accumulator for readings like `reading`; None where readings are kept one by one."""

    @abc.abstractmethod
    def weights(self, sample: Int[Array, ""], samples: int) -> Float[Array, " pool"]:
        """The weight of the reading at `sample` in each feature row."""


class EverySample(Window):
    """All readings, one row for each sample: features [sample, reading]. Memory grows with the run, as targets do."""

    def start(self, reading, samples):
        return None

    def weights(self, sample, samples):
        raise ValueError("`EverySample` keeps readings one by one; it has no weights.")


class Pooled(Window):
    """Means over `pools` equal stretches of the run: features [pool, reading]. One pool is the mean over the run.

    Args:
        pools: Number of stretches.
        last: Whether the very last reading is a further row of its own.

    Raises:
        ValueError: for fewer than one row.
    """

    pools: int = eqx.field(static=True, default=1)
    last: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.pools < 0 or self.rows < 1:
            raise ValueError(f"`Pooled` needs at least one pool, or `last=True`; got pools = {self.pools}.")

    @property
    def rows(self) -> int:
        """Number of feature rows."""
        return self.pools + int(self.last)

    def start(self, reading, samples):
        if samples < self.pools:
            raise ValueError(
                f"`Pooled.pools` is {self.pools}, but the run has only {samples} samples; use fewer pools."
            )
        return jnp.zeros((self.rows, *reading.shape), reading.dtype)

    def weights(self, sample, samples):
        dtype = jnp.zeros(()).dtype
        # Pool j holds the samples i with floor(i * pools / samples) = j; their number is a difference of ceilings.
        edges = -((-np.arange(self.pools + 1) * samples) // max(self.pools, 1))
        sizes = jnp.asarray(np.diff(edges), dtype)
        edges = jnp.asarray(edges, sample.dtype)
        mine = (sample >= edges[:-1]) & (sample < edges[1:])
        means = jnp.where(mine, 1 / sizes, 0)
        return jnp.append(means, (sample == samples - 1).astype(dtype)) if self.last else means


class PhasePath(eqx.Module):
    """A discrete path in phase space: positions at the kicks, momenta on the drifts between them."""

    position: Inexact[Array, "point coordinate"]
    momentum: Inexact[Array, "drift coordinate"]
    first: Inexact[Array, " coordinate"]
    """Momentum before the first kick."""
    last: Inexact[Array, " coordinate"]
    """Momentum after the last kick."""


class RunEnd(eqx.Module):
    """What a run that was not stored leaves: its last point and the features."""

    position: Inexact[Array, "*batch coordinate"]
    momentum: Inexact[Array, "*batch coordinate"]
    features: Inexact[Array, "*batch row reading"]


class Hamiltonian(System):
    r"""Motion from initial values, $H = K(p) + V(q, u(t))$: write `kinetic`, `potential` and `begin`.

    Each sample of the drive acts for `substeps` kicks of the leapfrog, `step` apart. The kinetic energy must be even
    in the momenta: reversing them is what reverses time. Arrays in `begin` are trained too, and inputs may enter it.
    """

    step: eqx.AbstractVar[float]
    """Time step. [s]"""
    samples: eqx.AbstractVar[int | None]
    """Number of samples of an undriven run; None where the drive has as many as it has."""
    substeps: eqx.AbstractVar[int]
    """Kicks for each sample."""
    window: eqx.AbstractVar[Window]
    """Which readings become features."""

    reversible: ClassVar[bool] = True
    """Whether `potential`, `kinetic` and `friction_rate` are all that acts. Declare False where other forces do: echoes
    are refused."""

    @abc.abstractmethod
    def kinetic(self, momentum: Inexact[Array, " coordinate"]) -> Inexact[Array, ""]:
        """Kinetic energy, even in the momenta. [J]"""

    @abc.abstractmethod
    def potential(self, position: Inexact[Array, " coordinate"], drive: PyTree) -> Inexact[Array, ""]:
        """Potential energy under one sample of the drive. [J]"""

    @abc.abstractmethod
    def begin(self, inputs: PyTree) -> tuple[Inexact[Array, " coordinate"], Inexact[Array, " coordinate"]]:
        """Initial position and momentum."""

    def drive(self, inputs: PyTree) -> PyTree:
        """The drive, leading axis the sample; the inputs themselves by default. None for an undriven run."""
        return inputs

    def reading(self, position: Inexact[Array, " coordinate"]) -> Inexact[Array, " reading"]:
        """What is read at the end of a sample; the position by default. Momenta cannot be read."""
        return position

    def friction_rate(self) -> float:
        r"""Rate $\gamma$ of friction, $\dot p = -\partial V/\partial q - \gamma p$; none by default. [1/s].

        One plain number for all coordinates, never trained. An echo gains where the run has lost, so that over a
        duration $T$ its nudge and its rounding grow by $e^{\gamma T}$: beta must be smaller by as much.
        """
        return 0.0

    def readout(self, features: Inexact[Array, "row reading"]) -> PyTree:
        """The output, of the features that the window makes of the readings; the features by default."""
        return features

    def length(self, inputs: PyTree) -> int:
        """Number of samples."""
        leaves = jax.tree.leaves(jax.eval_shape(self.drive, inputs))
        if leaves:
            return leaves[0].shape[0]
        if self.samples is None:
            raise ValueError(f"`{type(self).__name__}` has neither a drive nor `samples`; say how long the run is.")
        return self.samples

    def energy(self, state, inputs):
        """Minus the discrete phase-space action, plus what the initial values do at the first point. [J s]."""
        drive = self.drive(inputs)
        points = state.position.shape[0]
        index = jnp.arange(points, dtype=state.position.dtype)
        at_kicks, at_drifts = (fading(self, at - (points - 1)) for at in (index, index[1:] - 0.5))
        weights = at_kicks * kick_weights(points, self.step, state.position.dtype)
        held = jax.tree.map(lambda leaf: jnp.repeat(leaf, self.substeps, axis=0), drive)
        potential = jax.vmap(self.potential)(state.position, held)
        kinetic = jax.vmap(self.kinetic)(state.momentum)
        transport = jnp.sum(state.momentum * jnp.diff(state.position, axis=0), axis=1)
        position, momentum = self.begin(inputs)
        ends = jnp.sum(state.first * position) - jnp.sum(state.position[0] * momentum)
        drifts = at_drifts * (self.step * kinetic - transport)
        return jnp.sum(weights * potential) + jnp.sum(drifts) + at_kicks[0] * ends

    def initial_state(self, inputs):
        """A path that stands still at the initial position, with the initial momentum."""
        position, momentum = self.begin(inputs)
        points = self.length(inputs) * self.substeps
        return PhasePath(
            jnp.broadcast_to(position, (points, *position.shape)),
            jnp.broadcast_to(momentum, (points - 1, *momentum.shape)),
            momentum,
            momentum,
        )

    def features(self, state: PhasePath) -> Inexact[Array, "row reading"]:
        """What the window makes of the readings along a stored path."""
        readings = jax.vmap(self.reading)(state.position[self.substeps - 1 :: self.substeps])
        if isinstance(self.window, EverySample):
            return readings
        samples = readings.shape[0]
        rows = jax.vmap(lambda sample: self.window.weights(sample, samples))(jnp.arange(samples))
        return jnp.tensordot(rows.astype(readings.dtype), readings, axes=(0, 0))

    def output(self, state):
        """The readout of the features, of a stored path or of the end of a run."""
        return self.readout(state.features if isinstance(state, RunEnd) else self.features(state))


class Stack(System):
    """Hamiltonian systems one behind the other: the outputs of each are the inputs of the next. Deep, with echoes.

    Every block but the last keeps its readings sample by sample (`EverySample`). A stack as a whole has no stationary
    action, because nothing acts back on a block from those above: its gradient comes from `EchoPropagation`, which
    sends an echo through each block from the last to the first.
    """

    blocks: tuple[Hamiltonian, ...]

    def __check_init__(self):
        if not self.blocks:
            raise ValueError("`Stack.blocks` is empty; give at least one Hamiltonian system.")
        for number, block in enumerate(self.blocks[:-1]):
            if not isinstance(block.window, EverySample):
                raise ValueError(
                    f"Block {number} of the `Stack` has the window {type(block.window).__name__}; all but the last "
                    "need `EverySample`, because the next block is driven by every sample."
                )

    def energy(self, state, inputs):
        """The sum of the blocks' energies, each under the inputs that the block before it makes. [J s]."""
        total = 0.0
        for block, path in zip(self.blocks, state, strict=True):
            total, inputs = total + block.energy(path, inputs), block.output(path)
        return total

    def initial_state(self, inputs):
        paths = []
        for block in self.blocks:
            paths.append(block.initial_state(inputs))
            inputs = block.output(paths[-1])
        return tuple(paths)

    def output(self, state):
        return self.blocks[-1].output(state[-1])


def fading(system: Hamiltonian, points: Float[Array, "*point"]) -> Float[Array, "*point"]:
    r"""The weight $e^{\gamma(t - T)}$ that friction gives in the action, at times counted in points from the end."""
    rate = system.friction_rate()
    return jnp.exp(rate * system.step * points) if rate else jnp.ones_like(points)


def kick_weights(points: int, step: float, dtype: jnp.dtype) -> Float[Array, " point"]:
    """Weight of the potential at each point: the step, half of it at both ends. [s]."""
    return jnp.full(points, step, dtype).at[0].mul(0.5).at[-1].mul(0.5)
