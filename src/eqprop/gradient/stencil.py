r"""Difference rules in the nudging strength: $\sum_k w_k\, g(\beta_k) \approx g'(0)$.

Every table has $\sum_k w_k = 0$ and $\sum_k w_k\beta_k = 1$.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 2.3 (one-sided,
    symmetric). A. Laborieux and F. Zenke, Holomorphic equilibrium propagation computes exact gradients through
    finite size oscillations, 2022 (holomorphic).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Inexact, PRNGKeyArray

__all__ = ["RandomSign", "Stencil", "holomorphic", "one_sided", "random_sign", "richardson", "symmetric"]


class Stencil(eqx.Module):
    r"""$\sum_k w_k\, g(\beta_k) \approx g'(0)$, with error $O(\beta^{\mathrm{order}})$."""

    nodes: Inexact[Array, " phase"]
    weights: Inexact[Array, " phase"]
    order: int = eqx.field(static=True)
    starts_free: bool = eqx.field(static=True, default=False)
    """Whether the first node is zero, the free phase itself."""

    def draw(self, key: PRNGKeyArray | None) -> "Stencil":
        """The table to use for one batch; random rules draw, this one returns itself."""
        del key
        return self

    def scaled(self, factor: float) -> "Stencil":
        """The same rule at `factor` times the nudging strength."""
        return Stencil(self.nodes * factor, self.weights / factor, self.order, self.starts_free)


class RandomSign(eqx.Module):
    """A one-sided rule whose sign is drawn anew for each batch; in expectation the symmetric rule.

    Source:
        B. Scellier and Y. Bengio, Equilibrium propagation, 2017, section 5.
    """

    stencil: Stencil

    @property
    def order(self) -> int:
        """The order of a single draw."""
        return self.stencil.order

    def draw(self, key: PRNGKeyArray | None) -> Stencil:
        """One draw of the sign."""
        if key is None:
            raise ValueError(
                "`random_sign` draws a sign for each batch: call the estimator with `key=jax.random.key(...)`."
            )
        sign = jax.random.rademacher(key, (), self.stencil.nodes.dtype)
        return Stencil(sign * self.stencil.nodes, sign * self.stencil.weights, self.stencil.order, True)

    def scaled(self, factor: float) -> "RandomSign":
        """The same rule at `factor` times the nudging strength."""
        return RandomSign(self.stencil.scaled(factor))


def one_sided(beta: float | Inexact[Array, ""]) -> Stencil:
    """Free phase and one nudged phase, of either sign; order 1."""
    beta = _strength(beta)
    return Stencil(jnp.stack([0 * beta, beta]), jnp.stack([-1 / beta, 1 / beta]), order=1, starts_free=True)


def random_sign(beta: float | Inexact[Array, ""]) -> RandomSign:
    """One-sided, with a sign drawn for each batch; order 1 a draw, order 2 in expectation."""
    return RandomSign(one_sided(beta))


def symmetric(beta: float | Inexact[Array, ""]) -> Stencil:
    """Two nudged phases of opposite sign; order 2. The default choice."""
    beta = _strength(beta)
    return Stencil(jnp.stack([beta, -beta]), jnp.stack([0.5 / beta, -0.5 / beta]), order=2)


def richardson(beta: float | Inexact[Array, ""]) -> Stencil:
    """Four nudged phases at ±beta and ±beta/2; order 4."""
    beta = _strength(beta)
    nodes = jnp.stack([beta, -beta, beta / 2, -beta / 2])
    weights = jnp.stack([-1 / (6 * beta), 1 / (6 * beta), 4 / (3 * beta), -4 / (3 * beta)])
    return Stencil(nodes, weights, order=4)


def holomorphic(radius: float | Inexact[Array, ""], *, points: int = 4) -> Stencil:
    """Cauchy's formula on a circle in the complex plane; order `points`, two points are the symmetric rule.

    Only for systems that declare `holomorphic`.
    """
    if points < 2:
        raise ValueError(f"`holomorphic` needs at least 2 `points`; got {points}.")
    radius = _strength(radius)
    roots = np.exp(2j * np.pi * np.arange(points) / points)
    dtype = np.result_type(radius.dtype, np.complex64)
    roots, radius = jnp.asarray(roots, dtype), radius.astype(dtype)
    return Stencil(radius * roots, roots.conj() / (points * radius), order=points)


def _strength(beta):
    beta = jnp.asarray(beta, float) if isinstance(beta, int | float) else jnp.asarray(beta)
    if not isinstance(beta, Tracer) and not (jnp.isfinite(beta) and beta != 0):
        raise ValueError(f"The nudging strength must be finite and not zero; got beta = {beta}. Try 0.01 to 0.5.")
    return beta
