r"""Langevin dynamics of continuous states, plain and Metropolis-adjusted.

$$s \leftarrow s - \eta\,\partial E/\partial s + \sqrt{2T\eta}\;\xi$$

has the Boltzmann distribution as its limit $\eta \to 0$ only. In its own stationary distribution
$\langle |s'|^2\rangle = \langle |s|^2\rangle$ gives, exactly,

$$\langle s\cdot\partial E/\partial s\rangle = nT\,(1 + \epsilon), \qquad
\epsilon = \frac{\eta}{2nT}\,\langle|\partial E/\partial s|^2\rangle,$$

where the Boltzmann distribution has $nT$: $\epsilon$ is reported as `Ensemble.step_bias` (for $E = ks^2/2$ it is the
relative excess of the variance). It is of order $\eta$ and does not cancel in a contrast. `MALA` has no such bias.

Source:
    G. O. Roberts and R. L. Tweedie, Exponential convergence of Langevin distributions and their discrete
    approximations, 1996.
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from eqprop.settle.base import state_gradient
from eqprop.settle.sample.base import Sampler, check_positive

__all__ = ["MALA", "Langevin"]


class _GradientSampler(Sampler):
    """What samplers that step along gradients share."""

    temperature: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    step_size: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.02)
    chains: int = 64
    burn_in: int = 200
    samples: int = 50
    thin: int = 10
    hottest: Float[Array, ""] | None = eqx.field(
        converter=lambda t: None if t is None else jnp.asarray(t), default=None
    )
    standard_error: float | None = None

    def __check_init__(self):
        name = type(self).__name__
        if not isinstance(self.temperature, Tracer):
            check_positive(self.temperature, name)
        if not isinstance(self.step_size, Tracer) and not float(self.step_size) > 0:
            raise ValueError(f"`{name}.step_size` must be positive; got {float(self.step_size)}.")


class Langevin(_GradientSampler):
    """Unadjusted Langevin dynamics; see the module for its step bias.

    Args:
        temperature: In the energy's unit, positive.
        step_size: Stable below two over the largest curvature of the energy.
        chains: Independent chains of each example.
        burn_in: Steps before the first sample, in each phase.
        samples: Samples kept of each chain.
        thin: Steps from one sample to the next.
        hottest: With it the burn-in anneals, as in `Gibbs`.
        standard_error: The largest standard error of the mean state that counts as settled; None for any.
    """

    def kernel(self, system, inputs, template):
        _check_continuous(self, system)
        step = self.step_size.astype(_dtype(template))

        def update(key, temperature, state):
            slope = state_gradient(system, state, inputs)
            noise = _normal(key, state)
            size = jnp.sqrt(2 * temperature * step)
            state = jax.tree.map(lambda s, g, n: s - step * g + size * n, state, slope, noise)
            return state, sum(jnp.sum(g**2) for g in jax.tree.leaves(slope))

        return update

    def report(self, mean, template, temperature):
        units = sum(jnp.size(leaf) for leaf in jax.tree.leaves(template))
        return {"step_bias": self.step_size.astype(mean.dtype) * mean / (2 * units * temperature)}


class MALA(_GradientSampler):
    """The Metropolis-adjusted Langevin algorithm, through blackjax: no step bias, the same distribution at any step.

    Needs the extra `eqprop[sampling]`. Arguments as of `Langevin`. The best acceptance is near 0.57.
    """

    step_size: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.1)

    def kernel(self, system, inputs, template):
        _check_continuous(self, system)
        try:
            from blackjax.mcmc import mala
        except ImportError as error:
            raise ImportError("`MALA` needs blackjax: pip install 'eqprop[sampling]', or use `Langevin`.") from error
        step = mala.build_kernel()
        size = self.step_size.astype(_dtype(template))

        def update(key, temperature, state):
            # blackjax steps along the gradient of the log density: its step is ours times the temperature.
            def log_density(state):
                return -system.energy(state, inputs) / temperature

            now = mala.init(state, log_density)
            new, info = step(key, now, log_density, size * temperature)
            return new.position, info.acceptance_rate

        return update

    def report(self, mean, template, temperature):
        return {"acceptance": mean}


def _check_continuous(sampler, system):
    name = type(sampler).__name__
    if system.discrete:
        raise ValueError(
            f"`{name}` follows gradients, which the discrete `{type(system).__name__}` has not; use `Gibbs`."
        )
    if system.bounds() is not None:
        raise ValueError(
            f"`{name}` cannot keep `{type(system).__name__}` within its bounds; a wall would distort the distribution. "
            "Replace the bounds by a steep energy."
        )


def _normal(key, state):
    """Normal numbers like the state, drawn at once: the generator is most of the cost of a small step."""
    flat, unravel = jax.flatten_util.ravel_pytree(state)
    return unravel(jax.random.normal(key, flat.shape, flat.dtype))


def _dtype(state):
    return jnp.result_type(*jax.tree.leaves(state))
