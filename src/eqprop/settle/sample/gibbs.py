r"""Block Gibbs sampling: every block of units redrawn from its conditional distribution, one block after the other.

The units of a block must not interact (a colouring of the graph), so that their joint conditional distribution is a
product. The system says how to redraw a block (`System.conditionals`); detailed balance holds block by block.

Source:
    S. Geman and D. Geman, Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images, 1984.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from eqprop.settle.sample.base import Sampler, check_positive

__all__ = ["Gibbs"]

_UNROLLED = 8  # blocks up to this number are written out one by one, with static sizes


class Gibbs(Sampler):
    """Block Gibbs sampling of systems that declare `conditionals` (spins, Boltzmann machines).

    Args:
        temperature: In the energy's unit, positive; an array, so that annealing it does not recompile.
        chains: Independent chains of each example.
        burn_in: Sweeps before the first sample, in each phase.
        samples: Samples kept of each chain.
        thin: Sweeps from one sample to the next.
        hottest: With it the burn-in anneals: geometrically from this temperature down, in the free phase; up to it
            and down again (reverse annealing) in nudged phases, which start at the free chains.
        standard_error: The largest standard error of the mean state, root mean square over units, that counts as
            settled; None for any.
    """

    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    chains: int = 8
    burn_in: int = 20
    samples: int = 20
    thin: int = 1
    hottest: Float[Array, ""] | None = eqx.field(
        converter=lambda t: None if t is None else jnp.asarray(t), default=None
    )
    standard_error: float | None = None

    def __check_init__(self):
        if not isinstance(self.temperature, Tracer):
            check_positive(self.temperature, "Gibbs")

    def kernel(self, system, inputs, template):
        conditionals = system.conditionals(inputs, None)
        if conditionals is None:
            raise ValueError(
                f"`{type(system).__name__}` declares no `conditionals`, which `Gibbs` needs. Use `Langevin` or `MALA` "
                "for continuous states."
            )

        def update(key, temperature, state):
            noise = conditionals.noise(key)
            if conditionals.count <= _UNROLLED:
                for block in range(conditionals.count):
                    state = conditionals.draw(block, noise, temperature, state)
            else:
                state = jax.lax.fori_loop(
                    0, conditionals.count, lambda b, s: conditionals.draw(b, noise, temperature, s), state
                )
            return state, jnp.zeros((), temperature.dtype)

        return update

    def report(self, mean, template, temperature):
        return {}
