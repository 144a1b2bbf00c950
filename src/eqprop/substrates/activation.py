r"""Activations as physics: each $\sigma$ is the minimiser of a one-unit energy.

A unit of energy $G(s) - d\,s$, with drive $d$, rests at $s = \sigma(d)$ when $G' = \sigma^{-1}$ inside the range of
$\sigma$ (and the unit is confined to that range). So a network with units of potential $G$ has exact rest states
$s = \sigma(\mathrm{drive})$, exact block minimisers and exact gradients.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

__all__ = ["Activation", "HalfHardSigmoid", "HardSigmoid", "Linear", "Logistic", "Tanh", "hard_sigmoid"]


class Activation(eqx.Module):
    """An elementwise nonlinearity with its potential."""

    lower: eqx.AbstractClassVar[float]
    """Lower wall of the unit; minus infinity where the potential itself confines it, or nothing does."""
    upper: eqx.AbstractClassVar[float]
    """Upper wall."""
    rest: eqx.AbstractClassVar[float]
    """Where units start."""
    holomorphic: eqx.AbstractClassVar[bool]
    """Whether the potential is analytic."""

    @abc.abstractmethod
    def __call__(self, drive: Inexact[Array, "*units"]) -> Inexact[Array, "*units"]:
        r"""$\sigma(d)$, the minimiser of $G(s) - d\,s$."""

    @abc.abstractmethod
    def potential(self, state: Inexact[Array, "*units"]) -> Inexact[Array, "*units"]:
        """$G(s)$ of each unit."""


class Linear(Activation):
    r"""$\sigma(d) = d$, $G = s^2/2$."""

    lower: ClassVar[float] = -float("inf")
    upper: ClassVar[float] = float("inf")
    rest: ClassVar[float] = 0.0
    holomorphic: ClassVar[bool] = True

    def __call__(self, drive):
        return drive

    def potential(self, state):
        return 0.5 * state**2


class HardSigmoid(Activation):
    r"""$\sigma(d) = \min(\max(d, 0), 1)$, $G = s^2/2$ on $[0, 1]$."""

    lower: ClassVar[float] = 0.0
    upper: ClassVar[float] = 1.0
    rest: ClassVar[float] = 0.0
    holomorphic: ClassVar[bool] = False

    def __call__(self, drive):
        return hard_sigmoid(drive)

    def potential(self, state):
        return 0.5 * state**2


class HalfHardSigmoid(Activation):
    r"""$\sigma(d) = \min(\max(d/2, 0), 1)$, $G = s^2$ on $[0, 1]$.

    Source:
        A. Laborieux et al., Scaling equilibrium propagation to deep ConvNets, 2021.
    """

    lower: ClassVar[float] = 0.0
    upper: ClassVar[float] = 1.0
    rest: ClassVar[float] = 0.0
    holomorphic: ClassVar[bool] = False

    def __call__(self, drive):
        return hard_sigmoid(0.5 * drive)

    def potential(self, state):
        return state**2


class Logistic(Activation):
    r"""$\sigma(d) = 1/(1 + e^{-4(d - 1/2)})$, $G = \tfrac12 s + \tfrac14[s\ln s + (1-s)\ln(1-s)]$.

    Source:
        M. Ernoult et al., Updates of equilibrium prop match gradients of backprop through time in an RNN with
        static input, 2019.
    """

    lower: ClassVar[float] = -float("inf")
    upper: ClassVar[float] = float("inf")
    rest: ClassVar[float] = 0.5
    holomorphic: ClassVar[bool] = True

    def __call__(self, drive):
        return 1 / (1 + jnp.exp(-4 * (drive - 0.5))) if jnp.iscomplexobj(drive) else jax.nn.sigmoid(4 * (drive - 0.5))

    def potential(self, state):
        return 0.5 * state + 0.25 * (state * jnp.log(state) + (1 - state) * jnp.log(1 - state))


class Tanh(Activation):
    r"""$\sigma = \tanh$, $G = \tfrac12[(1+s)\ln(1+s) + (1-s)\ln(1-s)]$."""

    lower: ClassVar[float] = -float("inf")
    upper: ClassVar[float] = float("inf")
    rest: ClassVar[float] = 0.0
    holomorphic: ClassVar[bool] = True

    def __call__(self, drive):
        return jnp.tanh(drive)

    def potential(self, state):
        return 0.5 * ((1 + state) * jnp.log(1 + state) + (1 - state) * jnp.log(1 - state))


@jax.custom_jvp
def hard_sigmoid(x: Inexact[Array, "*units"]) -> Inexact[Array, "*units"]:
    """Clip to [0, 1], with derivative 1 on the *closed* interval.

    JAX's own derivatives at the bounds are 1/2 (`jnp.clip`) or 0 (`lax.clamp`); with them a network that starts
    at zero would learn at half speed, or never leave it.
    """
    return jnp.clip(x, 0, 1)


@hard_sigmoid.defjvp
def _hard_sigmoid_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return hard_sigmoid(x), jnp.where((x >= 0) & (x <= 1), t, jnp.zeros_like(t))
