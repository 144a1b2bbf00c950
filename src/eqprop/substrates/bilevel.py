r"""Bilevel learning: a learner as the physical system, its training loss as the energy, its weights as the state.

$$w^\star(\theta) = \arg\min_w L_{\mathrm{in}}(\theta, w), \qquad
\nabla_\theta L_{\mathrm{out}}(w^\star) = \frac{d}{d\beta}\Big|_0\,\partial_\theta L_{\mathrm{in}}(\theta, w^\beta)$$

with $w^\beta$ the weights trained on $L_{\mathrm{in}} + \beta L_{\mathrm{out}}$: no second derivatives and no
backpropagation through training, the learner is only run again. $\theta$ are hyper-parameters: regularisation,
initial weights, data weights.

`inputs` are the training data of one task, `targets` its validation data, a batch holds tasks.

Source:
    B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 6.3. N. Zucchet et al., A
    contrastive rule for meta-learning, 2022 (arXiv 2104.01677).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from eqprop.system import System

__all__ = ["InnerProblem", "quadratic_pull"]


class InnerProblem(System):
    """A learner: its state are its weights, its energy the loss it is trained on.

    Args:
        loss: `loss(hyper, weights, data)`, a scalar: what training minimises. [the loss's unit]
        hyper: Hyper-parameters, a tree of arrays: what is learned.
        start: Initial weights; or a function of `hyper` that gives them, for learned initialisations.

    Raises:
        ValueError: if `hyper` holds no floating-point arrays.
    """

    hyper: PyTree
    loss: Callable = eqx.field(static=True)
    start: Callable = eqx.field(static=True)

    def __init__(self, loss: Callable, hyper: PyTree, start: PyTree | Callable):
        self.loss = loss
        self.hyper = jax.tree.map(jnp.asarray, hyper)
        if not jax.tree.leaves(eqx.filter(self.hyper, eqx.is_inexact_array)):
            raise ValueError(
                "`hyper` holds no floating-point arrays, so there is nothing to learn; give a tree of them."
            )
        self.start = start if callable(start) else _Constant(start)

    def energy(self, state, inputs):
        return self.loss(self.hyper, state, inputs)

    def initial_state(self, inputs):
        del inputs
        return jax.tree.map(jnp.asarray, self.start(self.hyper))


class _Constant:
    """A function that returns one tree; equal only to itself, so that it may be static."""

    def __init__(self, value):
        self.value = value

    def __call__(self, hyper):
        del hyper
        return self.value


def quadratic_pull(
    weights: Float[Array, " weight"], centre: Float[Array, " weight"], log_strength: Float[Array, " weight"]
) -> Float[Array, ""]:
    r"""$\tfrac12\sum_i e^{l_i}(w_i - m_i)^2$: a regularisation for each weight, towards a learned centre.

    Its two local rules: $-e^{l_i}\,dw_i/d\beta$ for $m_i$, and $\tfrac12 e^{l_i}\,d(w_i - m_i)^2/d\beta$ for $l_i$.
    """
    return 0.5 * jnp.sum(jnp.exp(log_strength) * (weights - centre) ** 2)
