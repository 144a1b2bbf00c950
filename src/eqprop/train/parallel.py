r"""A batch shared among devices: each settles its part of the examples, gradients are averaged.

Settling needs no word from other examples, so that devices talk once a batch, about the gradient. Processors count as
devices too, once JAX is told so before its first array: `jax.config.update("jax_num_cpu_devices", 2)`; the command line
does that. It pays where the operations of one example or chunk are too small for several processors.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import PRNGKeyArray, PyTree

from eqprop.cost import Cost
from eqprop.equilibrium import AbstractEquilibrium
from eqprop.gradient.estimate import Estimate, Estimator, batch_size
from eqprop.system import System

__all__ = ["devices_for", "estimate_shared", "free_phase_shared", "on_all", "on_first"]

_AXIS = "batch"


def estimate_shared(
    propagate: Estimator,
    devices: int,
    system: System,
    cost: Cost,
    inputs: PyTree,
    targets: PyTree,
    key: PRNGKeyArray | None,
) -> Estimate:
    """What `propagate` gives for a batch, shared among so many devices; each settles all of one they do not divide.

    What an estimator judges over a batch (whether a nudge is lost), it judges over each part.
    """

    def part(whole, inputs, targets):
        propagate, system, cost, key = whole
        if key is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(_AXIS))
        estimate = propagate(system, cost, inputs, targets, key=key)
        counted = estimate.settled if propagate.only_settled else jnp.ones_like(estimate.settled)
        return _averaged(estimate, jnp.sum(counted))

    if devices == 1 or batch_size(inputs) % devices:
        return propagate(system, cost, inputs, targets, key=key)
    averages, of_examples, nudged = Spec(), Spec(_AXIS), Spec(None, _AXIS)
    results = averages, averages, averages, of_examples, nudged
    value, gradient, error, (outputs, result, free, unmoved), nudged = _shared(
        part, devices, (propagate, system, cost, key), (inputs, targets), results
    )
    return Estimate(value, gradient, outputs, result, free, nudged, error, unmoved)


def free_phase_shared(
    propagate: Estimator, devices: int, system: System, inputs: PyTree, keys: PyTree | None
) -> AbstractEquilibrium:
    """The free equilibria of a batch, shared among so many devices; each settles all of one they do not divide."""

    def part(whole, inputs, keys):
        propagate, system = whole
        return propagate.free_phase(system, inputs, None, keys)

    if devices == 1 or batch_size(inputs) % devices:
        return propagate.free_phase(system, inputs, None, keys)
    return _shared(part, devices, (propagate, system), (inputs, keys), Spec(_AXIS))


def on_all(tree: PyTree, devices: int) -> PyTree:
    """A tree with its arrays on each of so many devices, so that no step has to carry them there."""
    return tree if devices == 1 else _put(tree, NamedSharding(_mesh(devices), Spec()))


def on_first(tree: PyTree) -> PyTree:
    """A tree with its arrays on the first device alone, where JAX computes by itself."""
    return _put(tree, jax.devices()[0])


def devices_for(devices: int, size: int | None) -> int:
    """As many of up to `devices` devices as there are, and divide batches of `size` (None: of any) equally."""
    there = min(devices, jax.device_count())
    return there if size is None else next(n for n in range(there, 0, -1) if size % n == 0)


def _put(tree, where):
    return jax.tree.map(lambda leaf: jax.device_put(leaf, where) if eqx.is_array(leaf) else leaf, tree)


def _mesh(count):
    return Mesh(np.asarray(jax.devices()[:count]), (_AXIS,))


def _shared(fn: Callable, count: int, whole: PyTree, batched: PyTree, results: PyTree) -> PyTree:
    """`fn(whole, *batched)` on each device, with its part of what is batched."""
    arrays, rest = eqx.partition(whole, eqx.is_array)

    def local(arrays, batched):
        return fn(eqx.combine(arrays, rest), *batched)

    specs = Spec(), Spec(_AXIS)
    return jax.shard_map(local, mesh=_mesh(count), in_specs=specs, out_specs=results, check_vma=False)(arrays, batched)


def _averaged(estimate: Estimate, counted):
    """The estimate of a part, with means over all parts, by the number of examples that count."""
    total = jax.lax.psum(counted, _AXIS)
    share = counted / jnp.maximum(total, 1)

    def mean(leaf):
        # A part without such an example has no value: NaN, which must not spread.
        part = share.astype(leaf.dtype) * jnp.where(counted > 0, leaf, jnp.zeros_like(leaf))
        return jax.lax.psum(part, _AXIS)

    value = jnp.where(total > 0, mean(estimate.value), jnp.nan)
    gradient = jax.tree.map(mean, estimate.gradient)
    error = jax.tree.map(
        lambda leaf: jnp.sqrt(jax.lax.psum((share.astype(leaf.dtype) * leaf) ** 2, _AXIS)), estimate.standard_error
    )
    of_examples = estimate.outputs, estimate.result, estimate.free, estimate.unmoved
    return value, gradient, error, of_examples, estimate.nudged
