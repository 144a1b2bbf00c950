r"""Benches: a physical circuit, or a simulator of one, behind the seam of a solver.

A bench is told parameters, applies inputs and a nudge, and reports what it reads at its terminals. The system it
serves is the *known part* of the energy as a function of those readings (`Terminals`); the rest of the device
need not be known at all, because equilibrium propagation differentiates the energy only in the parameters.

Nothing here is traced: a bench answers one example at a time, on the host.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from eqprop.bridges.errors import BenchError
from eqprop.bridges.terminals import Terminals
from eqprop.equilibrium import RESULT, AbstractEquilibrium
from eqprop.settle.base import Solver, real_dtype
from eqprop.substrates.circuit.network import Network
from eqprop.system import Forced, Nudged, System

__all__ = ["Bench", "BenchSolver", "Capabilities", "Readings", "settings_of"]


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a bench can do, in SI units."""

    terminals: int
    """Numbers in a reading."""
    outputs: int
    """Outputs that can be nudged; 0 if none can."""
    signed_nudge: bool = True
    """Whether nudges of both signs can be applied; many sources only push."""
    writable: bool = True
    """Whether parameters can be set from here."""
    parameter_limits: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Range of each setting that has one."""
    input_limits: tuple[float, float] = (-np.inf, np.inf)
    nudge_limits: tuple[float, float] = (-np.inf, np.inf)
    read_noise: float = 0.0
    """Standard deviation of one reading, as far as known; what to choose beta by."""


@runtime_checkable
class Bench(Protocol):
    """Four methods make anything a bench."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Write parameters, by name: `W1.conductance` [S]. Called when they have changed."""
        ...

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """Set inputs and nudging forces (for a circuit: currents into the outputs, in ampere), let it settle, and read.

        None is the free phase: no nudge.

        Raises:
            BenchError: if it did not answer; it may be asked again.
        """
        ...

    def close(self) -> None:
        """Leave the device in a safe state."""
        ...


class Readings(AbstractEquilibrium):
    """Repeated readings of one rest state.

    `residual` is the standard error of their mean (root mean square over the terminals); zero for a single reading.
    """

    state: Inexact[Array | np.ndarray, "*batch reading terminal"]
    result: RESULT
    residual: Inexact[Array | np.ndarray, "*batch"]
    steps: Int[Array | np.ndarray, "*batch"]

    @property
    def restart(self) -> Inexact[Array | np.ndarray, "*batch terminal"]:
        """The mean reading."""
        return self.state.mean(axis=-2)

    def expect(self, fn):
        """Mean of `fn` over the readings."""
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(fn)(self.state))


class BenchSolver(Solver):
    """Lets a bench settle.

    Args:
        bench: The bench.
        repeats: Readings of each phase, averaged.
        retries: How often a phase is asked for again after a `BenchError`, a timeout or a lost connection.
    """

    bench: Bench = eqx.field(static=True)
    repeats: int = 1
    retries: int = 2
    host: ClassVar[bool] = True

    def __check_init__(self):
        if self.repeats < 1 or self.retries < 0:
            raise ValueError(
                f"`repeats` must be at least 1 and `retries` at least 0; got {self.repeats} and {self.retries}."
            )

    def solve(self, system, inputs, start, *, free, key):
        """Settle one example on the bench; `start` is of no use to a physical system.

        Raises:
            ValueError: for nudges other than `Forced`, and for what the bench cannot do.
            BenchError: if the bench does not answer, or answers with something other than finite readings.
        """
        del free, key
        base, nudge = nudge_of(system)
        check_able(self.bench.capabilities, nudge)
        if self.bench.capabilities.writable:
            self.bench.set_parameters(settings_of(base))
        flat = np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(inputs)] or [np.zeros(0)])
        readings = np.stack([self._read(flat, nudge) for _ in range(self.repeats)])
        dtype = real_dtype(start)
        spread = 0.0
        if self.repeats > 1:
            spread = np.sqrt(np.mean(np.var(readings, axis=0, ddof=1)) / self.repeats)
        states = np.stack([np.asarray(_state(base, reading), dtype) for reading in readings])
        # NumPy throughout: a batch of readings goes to JAX as one array.
        return Readings(states, RESULT.settled, np.asarray(spread, dtype), np.ones((), np.int32))

    def _read(self, inputs, nudge):
        wanted = self.bench.capabilities.terminals
        failure: Exception | None = None
        for _ in range(self.retries + 1):
            try:
                reading = np.asarray(self.bench.apply(inputs, nudge), float)
            except (BenchError, TimeoutError, ConnectionError) as error:
                failure = error
                continue
            if reading.shape != (wanted,):
                raise BenchError(f"The bench announced {wanted} terminals and read an array of shape {reading.shape}.")
            if np.isfinite(reading).all():
                return reading
            failure = BenchError(
                f"Terminal {int(np.argmin(np.isfinite(reading)))} read {reading[~np.isfinite(reading)][0]}."
            )
        raise BenchError(f"The bench failed {self.retries + 1} times in a row; the last time: {failure}") from failure


def nudge_of(system: System) -> tuple[System, Float[np.ndarray, " output"] | None]:
    """The free system under a nudge, and the constant force on each output; None in the free phase.

    Raises:
        ValueError: for a nudge that is no constant force.
    """
    if not isinstance(system, Nudged):
        return system, None
    if not isinstance(system, Forced) or isinstance(system.system, Nudged):
        raise ValueError(f"A bench is nudged by constant forces; use `nudge=Forced`, not `{type(system).__name__}`.")
    force = np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(system.outputs_force)])
    return system.system, float(np.asarray(system.beta)) * force


def check_able(able: Capabilities, nudge: Float[np.ndarray, " output"] | None) -> None:
    """Raise ValueError for a nudge that a bench cannot apply."""
    if nudge is None:
        return
    if len(nudge) != able.outputs:
        raise ValueError(f"The nudge has {len(nudge)} forces; this bench can nudge {able.outputs} outputs.")
    if not able.signed_nudge and (nudge < 0).any():
        raise ValueError(
            f"This bench cannot pull outputs down, and output {int(np.argmin(nudge))} needs {nudge.min():.3g}. "
            "Read outputs differentially, or give it a source of both signs."
        )


def settings_of(system: System) -> dict[str, Float[np.ndarray, "..."]]:
    """A system's parameters as a bench is told them: by name, in SI units.

    For circuits, the trained quantities of each element (`W1.conductance`); for other systems the arrays by their
    place.
    """
    if isinstance(system, Terminals | Network):
        return {
            f"{name}.{quantity_name}": np.asarray(quantity.value, float)
            for name, element in system.elements.items()
            for quantity_name, quantity in element.quantities().items()
            if quantity.trainable
        }
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(system, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def _state(system, reading):
    """The state of a system, from the voltages of all nodes; readings are the state of all other systems."""
    return reading[list(system.topology.units)] if isinstance(system, Network) else reading
