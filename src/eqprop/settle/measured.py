"""Settling as a bench sees it: the state is read with noise, offsets and a converter of so many bits."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from eqprop.equilibrium import Equilibrium
from eqprop.settle.base import Solver
from eqprop.system import Nudged

__all__ = ["Measured"]


class Measured(Solver):
    """A solver whose equilibria are read imperfectly. With everything off it is `solver` itself, bit for bit.

    Each phase of each example is read anew; offsets belong to the units and stay.

    Args:
        solver: What settles.
        read_noise: Standard deviation of a reading. [the state's unit]
        offset: Standard deviation of the units' offsets. [the state's unit]
        bits: Of the converter; None for none.
        full_scale: The converter reads from minus to plus this. [the state's unit]
        chip: Random key that the offsets are drawn from.
    """

    solver: Solver
    read_noise: float = 0.0
    offset: float = 0.0
    bits: int | None = eqx.field(static=True, default=None)
    full_scale: float = 1.0
    chip: PRNGKeyArray = eqx.field(default_factory=lambda: jax.random.key(0))

    def __check_init__(self):
        for name in ("read_noise", "offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"`Measured.{name}` must not be negative; got {getattr(self, name)}.")
        if self.bits is not None and (self.bits < 1 or self.full_scale <= 0):
            raise ValueError(
                f"A converter needs at least 1 bit and a positive full scale; got `bits` = {self.bits} and "
                f"`full_scale` = {self.full_scale}."
            )

    def solve(self, system, inputs, start, *, free, key):
        found = self.solver.solve(system, inputs, start, free=free, key=key)
        if self.read_noise == 0 and self.offset == 0 and self.bits is None:
            return found
        if not isinstance(found, Equilibrium):
            raise ValueError(f"`Measured` reads single equilibria; `{type(self.solver).__name__}` gives an ensemble.")
        if self.read_noise > 0:
            if key is None:
                raise ValueError("Read noise is random: call the estimator or `settle` with `key=jax.random.key(...)`.")
            key = _of_phase(key, system)
        leaves, tree = jax.tree.flatten(found.state)
        read = [self._read(leaf, i, key) for i, leaf in enumerate(leaves)]
        return eqx.tree_at(lambda e: e.state, found, tree.unflatten(read))

    def _read(self, value: Array, index: int, key: PRNGKeyArray | None) -> Array:
        if self.offset > 0:
            drawn = jax.random.normal(jax.random.fold_in(self.chip, index), value.shape, value.dtype)
            value = value + self.offset * drawn
        if self.read_noise > 0 and key is not None:
            value = value + self.read_noise * jax.random.normal(
                jax.random.fold_in(key, index), value.shape, value.dtype
            )
        if self.bits is not None:
            step = 2 * self.full_scale / 2**self.bits
            value = step * jnp.round(jnp.clip(value, -self.full_scale, self.full_scale) / step)
        return value


def _of_phase(key: PRNGKeyArray, system: PyTree) -> PRNGKeyArray:
    """A key of the phase's own: estimators hand the same one to all phases of an example, and noise must not cancel."""
    if not isinstance(system, Nudged):
        return jax.random.fold_in(key, 0)
    strength = jnp.real(jnp.asarray(system.beta)).astype(jnp.float32)
    return jax.random.fold_in(key, jax.lax.bitcast_convert_type(strength, jnp.uint32))
