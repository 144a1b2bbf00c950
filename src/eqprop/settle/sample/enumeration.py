r"""Exact enumeration: all configurations of a small discrete system with their Boltzmann probabilities.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 6.2.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from eqprop.equilibrium import RESULT, Ensemble
from eqprop.settle.base import Solver, real_dtype
from eqprop.settle.sample.base import check_positive
from eqprop.system import project

__all__ = ["Enumeration"]


class Enumeration(Solver):
    r"""The exact distribution $p(s) = e^{-E(s)/T}/Z$ and free energy $-T\log Z$ of a system with `configurations`.

    For up to about 20 spins. Nothing is random: no key is needed. Complex energies (holomorphic nudges) are admitted.
    """

    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        if not isinstance(self.temperature, Tracer):
            check_positive(self.temperature, "Enumeration")

    def solve(self, system, inputs, start, *, free, key):
        del free, key
        configurations = system.configurations()
        if configurations is None:
            raise ValueError(
                f"`{type(system).__name__}` does not list its `configurations`, which `Enumeration` needs; use a "
                "sampler (`Gibbs`, `Langevin`)."
            )
        # A complex start is how an estimator says that the nudging strength is complex.
        kind = jnp.result_type(*jax.tree.leaves(start))
        states = jax.tree.map(lambda leaf: leaf.astype(kind), configurations)
        temperature = check_positive(self.temperature, "Enumeration").astype(real_dtype(start))
        energies = jax.vmap(lambda s: system.energy(s, inputs))(states)
        inside = _admitted(system, states)
        reference = jnp.min(jnp.where(inside, energies.real, jnp.inf))
        shifted = (energies - reference.astype(energies.dtype)) / temperature.astype(energies.dtype)
        unnormalised = jnp.where(inside, jnp.exp(-jnp.where(inside, shifted, 0)), 0)
        partition = jnp.sum(unnormalised)
        weights = unnormalised / partition
        free_energy = reference.astype(energies.dtype) - temperature.astype(energies.dtype) * jnp.log(partition)
        best = jnp.argmin(jnp.where(inside, energies.real, jnp.inf))
        last = jax.tree.map(lambda leaf: leaf[best], states)
        result = RESULT.where(jnp.all(jnp.isfinite(weights)), RESULT.settled, RESULT.diverged)
        zero = jnp.zeros((), real_dtype(start))
        return Ensemble(states, last, result, zero, jnp.ones((), jnp.int32), weights, free_energy)


def _admitted(system, states):
    """Which configurations lie within the bounds (clamped outputs are bounds)."""

    def inside(state):
        # Bounds at a clamped value may miss it by rounding; distinct configurations are far apart.
        moved = jax.tree.map(lambda s, p: jnp.all(jnp.abs(s - p) < 1e-4), state, project(system, state))
        return jnp.all(jnp.stack(jax.tree.leaves(moved)))

    if system.bounds() is None:
        return jnp.ones(jax.tree.leaves(states)[0].shape[0], bool)
    return jax.vmap(inside)(states)
