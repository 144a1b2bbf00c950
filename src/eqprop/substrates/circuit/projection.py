"""Trained quantities kept within their bounds."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from eqprop.substrates.circuit.quantity import Plain

__all__ = ["project"]

T = TypeVar("T")


def project(system: T) -> T:
    """The system with every `Plain` quantity back within its bounds; call it after an update.

    Args:
        system: Any tree that holds quantities: a `Network`.
    """

    def within(node):
        if not isinstance(node, Plain):
            return node
        return eqx.tree_at(lambda q: q.value, node, jnp.clip(node.value, node.lower, node.upper))

    return jax.tree.map(within, system, is_leaf=lambda node: isinstance(node, Plain))
