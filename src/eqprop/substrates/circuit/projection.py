"""Trained quantities kept within their bounds."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqprop.substrates.circuit.quantity import Plain

__all__ = ["at_bounds", "project"]

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

    return jax.tree.map(within, system, is_leaf=_is_plain)


def at_bounds(system: T) -> int:
    """How many trained numbers of `Plain` quantities rest on a bound, where updates may have been cut short.

    Args:
        system: Any tree that holds quantities: a `Network`.
    """
    found = 0
    for node in jax.tree.leaves(system, is_leaf=_is_plain):
        if isinstance(node, Plain):
            # Bounds in the number type of the values: a float32 rests on the float32 nearest to its bound.
            value = np.asarray(node.value)
            lower, upper = (np.asarray(bound, value.dtype) for bound in node.bounds)
            found += int(np.sum((value <= lower) | (value >= upper)))
    return found


def _is_plain(node):
    return isinstance(node, Plain)
