r"""Equilibrium propagation: settle freely, nudge the outputs, settle again, contrast.

$$\nabla_\theta L \approx \sum_k w_k\,\nabla_\theta F_{\beta_k}(\theta, s^{\beta_k})$$

for nudging strengths and weights of a `Stencil`. All nudged phases start at the free equilibrium and settle
together.

Source:
    B. Scellier and Y. Bengio, Equilibrium propagation: bridging the gap between energy-based models and
    backpropagation, 2017. B. Scellier, A deep learning theory for neural networks grounded in physics, 2021.
    A. Laborieux et al., Scaling equilibrium propagation to deep ConvNets, 2021 (symmetric nudging).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eqprop.equilibrium import RESULT, Ensemble, Equilibrium
from eqprop.gradient.estimate import (
    Estimate,
    Estimator,
    batch_size,
    free_phase,
    gradient_error,
    map_batch,
    mean_gradient,
    value_and_outputs,
)
from eqprop.gradient.stencil import RandomSign, Stencil
from eqprop.settle.base import Solver, projected_gradient, real_dtype, rms, rounding
from eqprop.system import Forced, Nudge, System, leaves_read

__all__ = ["EquilibriumPropagation"]

LEARNED = 0.05
"""Forces of less than this part of those before learning are not asked to stand out from the noise."""


class EquilibriumPropagation(Estimator):
    """The estimator of equilibrium propagation.

    Args:
        stencil: Nudging strengths and weights: `symmetric(0.01)`, say.
        solver: Settles the free phase, and the nudged ones.
        nudge: `Forced` (a constant force; the default) or `CostNudged` (energy plus beta times cost).
        nudged_solver: Settles the nudged phases, where another solver or tolerance than for the free one is
            wanted; `rtol` is relative to the displacement from the free state there.
        chunk: How many examples settle together; the whole batch by default. Examples that settle together wait for
            the slowest, and fewer of them fit the cache: it pays for large states, convolutional ones say.

    Raises:
        ValueError: for a `chunk` below 1, or one with a solver outside JAX, which takes one example after the other.
    """

    stencil: Stencil | RandomSign
    solver: Solver
    nudge: Nudge = eqx.field(static=True, default=Forced)
    nudged_solver: Solver | None = None
    chunk: int | None = None

    def __check_init__(self):
        if self.chunk is not None and (self.chunk < 1 or self.solver.host):
            raise ValueError(
                f"`chunk` must be a positive whole number of examples; got {self.chunk}. Leave it out with a solver "
                "outside JAX, which takes one example after the other."
            )

    def estimate(self, system, cost, inputs, targets, start, key):
        run = _estimate if self.solver.host else _estimate_compiled
        if not jnp.iscomplexobj(self.stencil.nodes if isinstance(self.stencil, Stencil) else 0.0):
            return run(self, system, cost, inputs, targets, start, key)
        _check_holomorphic(system)
        # Energies multiply real parameters and complex states.
        with jax.numpy_dtype_promotion("standard"):
            return run(self, system, cost, inputs, targets, start, key)

    def free_phase(self, system, inputs, start, keys):
        return free_phase(system, self.solver, inputs, start, keys, self.chunk)

    def scaled(self, factor: float) -> "EquilibriumPropagation":
        """The same estimator at `factor` times the nudging strength."""
        return EquilibriumPropagation(
            self.stencil.scaled(factor), self.solver, self.nudge, self.nudged_solver, self.chunk
        )


def _estimate(propagate, system, cost, inputs, targets, start, key):
    keys = sign_key = None
    if key is not None:
        sign_key, key = jax.random.split(key)
        keys = jax.random.split(key, batch_size(inputs))
    stencil = propagate.stencil.draw(sign_key)
    if propagate.solver.stochastic and stencil.starts_free:
        # The node at zero is sampled anew, with the noise of the other legs: most of it then cancels.
        stencil = Stencil(stencil.nodes, stencil.weights, stencil.order)
    free = propagate.free_phase(system, inputs, start, keys)
    nudged = _nudged_phases(propagate, stencil, system, cost, inputs, targets, free, keys)

    # Only the physics of a host solver is out of JAX's hands: what is made of it is compiled all the same.
    conclude = _conclude_compiled if propagate.solver.host else _conclude
    return conclude(propagate, stencil, system, cost, inputs, targets, free, nudged)


def _conclude(propagate, stencil, system, cost, inputs, targets, free, nudged):
    """The estimate, from the settled phases."""
    good = free.settled & jnp.all(nudged.settled, axis=0)
    sampled = isinstance(free, Ensemble)
    lost = jnp.zeros_like(good)
    if not sampled:
        lost = _nudge_lost(propagate, stencil, system, cost, inputs, targets, free, nudged, good)
    first_failure = free.result
    for k in range(nudged.residual.shape[0]):
        leg = jax.tree.map(lambda x, k=k: x[k], nudged)
        first_failure = _choose(first_failure == RESULT.settled, leg.result, first_failure)
    result = jax.vmap(lambda r, gone: RESULT.where(gone & (r == RESULT.settled), RESULT.nudge_lost, r))(
        first_failure, lost
    )
    good = good & ~lost

    def contrast(system, x, phases):
        y, free, nudged = phases

        def weighted(beta, weight, phase):
            nudged_system = propagate.nudge(system, cost, y, jax.lax.stop_gradient(free), beta)
            return weight * phase.expect(lambda s: nudged_system.energy(s, x))

        real = real_dtype(free.restart)
        dtype = np.result_type(real, np.complex64) if jnp.iscomplexobj(stencil.nodes) else real
        nodes, weights = stencil.nodes.astype(dtype), stencil.weights.astype(dtype)
        total = 0.0
        if stencil.starts_free:
            total = weighted(nodes[0], weights[0], free).real
            nodes, weights = nodes[1:], weights[1:]
        return total + jnp.sum(jax.vmap(weighted)(nodes, weights, nudged).real)

    by_example = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), nudged)
    gradient = mean_gradient(contrast, system, inputs, (targets, free, by_example), good, propagate.chunk)
    if not sampled:
        value, outputs = value_and_outputs(system, cost, free, targets, good)
        return Estimate(value, gradient, outputs, result, free, nudged)

    def loss(phase, y):
        return propagate.nudge(system, cost, y, phase, stencil.nodes[-1].real).loss(cost, y, phase)

    def of_group(index):
        return targets, free, jax.vmap(jax.vmap(lambda leg: leg.group(index)))(by_example)

    value, outputs = value_and_outputs(system, cost, free, targets, good, loss)
    error = None
    if free.groups >= 2:
        error = gradient_error(contrast, system, inputs, of_group, good, free.groups)
    return Estimate(value, gradient, outputs, result, free, nudged, error, _unmoved(stencil, free, by_example))


_conclude_compiled = eqx.filter_jit(_conclude)
_estimate_compiled = eqx.filter_jit(_estimate)


@eqx.filter_jit
def _nudge_compiled(propagate, system, cost, targets, free, beta):
    return propagate.nudge(system, cost, targets, free, beta)


_choose = jax.vmap(RESULT.where)


def _nudged_phases(propagate, stencil, system, cost, inputs, targets, free, keys):
    """Settle all nudged phases of all examples; leading axes [phase, example]."""
    solver = propagate.solver if propagate.nudged_solver is None else propagate.nudged_solver
    nodes = stencil.nodes[1:] if stencil.starts_free else stencil.nodes

    def settle_one(beta, x, y, free, key):
        start = free.restart
        if jnp.iscomplexobj(beta):
            start = jax.tree.map(lambda s: s.astype(np.result_type(s.dtype, np.complex64)), start)
        if solver.host:
            nudged = _nudge_compiled(propagate, system, cost, y, free, beta)
        else:
            nudged = propagate.nudge(system, cost, y, free, beta)
        return solver.solve(nudged, x, start, free=free, key=key)

    def settle_batch(beta):
        settle = map_batch(lambda x, y, f, k: settle_one(beta, x, y, f, k), solver, propagate.chunk)
        return settle(inputs, targets, free, keys)

    real = real_dtype(free.restart)
    nodes = nodes.astype(np.result_type(real, np.complex64) if jnp.iscomplexobj(nodes) else real)
    return map_batch(settle_batch, solver)(nodes)


def _unmoved(stencil, free, nudged):
    """Which examples show the same samples in all phases; `nudged` has leading axes [example, phase]."""

    def still(free, legs):
        first = jax.tree.map(lambda leaf: leaf[0], legs)
        if stencil.starts_free:
            first = free
        return jnp.all(jax.vmap(lambda leg: leg.same_samples(first))(legs))

    return jax.vmap(still)(free, nudged)


def _nudge_lost(propagate, stencil, system, cost, inputs, targets, free, nudged, good):
    """Which examples felt a force on free units while the batch as a whole did not move beyond its accuracy.

    Judged over the batch, and against the force that it would feel untaught, in its initial state: where little is left
    to learn, displacements are tiny, and what noise makes of them is harmless.
    """
    if propagate.solver.host:
        return jnp.zeros_like(good)
    beta = (
        stencil.nodes[-1].astype(real_dtype(free.restart))
        if not jnp.iscomplexobj(stencil.nodes)
        else jnp.abs(stencil.nodes[-1])
    )

    def felt(free, y):
        force = propagate.nudge(system, cost, y, free, beta).force(free.restart)
        return rms(_on_free_units(system, free.restart, force))

    def untaught(x, y):
        slope = jax.grad(lambda s: jnp.real(cost(system.output(s), y)))(system.initial_state(x))
        return beta * rms(slope)

    forces = jax.vmap(felt)(free, targets)
    floor = jax.vmap(lambda f: rounding(f.restart))(free)
    if stencil.starts_free:
        change = jax.tree.map(lambda legs, start: legs[-1] - start, nudged.state, free.restart)
        floor = jnp.maximum(floor, free.residual)
    else:
        # What the free phase left undone moves all legs alike, and cancels between them; what they left undone
        # themselves may not.
        change = jax.tree.map(_half_apart, nudged.state)
        floor = jnp.maximum(floor, jnp.max(nudged.residual, axis=0))
    feeling, displacement = good & (forces > 0), jax.vmap(rms)(change)

    def typical(values):
        return jnp.sqrt(jnp.sum(jnp.where(feeling, values**2, 0)))

    least = jnp.fmax(typical(forces), LEARNED * typical(jax.vmap(untaught)(inputs, targets)))
    # What this displacement would be under that force.
    response = typical(displacement) * least / typical(forces)
    lost = ~(response > typical(floor))
    if stencil.starts_free and isinstance(free, Equilibrium):
        # The free phase is a leg of the contrast here. What it left undone the nudged phase makes up, which moves the
        # state but is no response to the nudge: that force must stay well below the nudge's.
        undone = jax.vmap(lambda f, x: rms(projected_gradient(system, f.state, x)))(free, inputs)
        accurate = free.residual <= 10 * jax.vmap(lambda f: rounding(f.state))(free)
        lost = lost | (typical(jnp.where(accurate, 0, undone)) > 0.5 * least)
    return feeling & lost


def _half_apart(legs):
    """Half the difference of the last and the first; by a sum over all, because slices of states would be copied."""
    weights = np.zeros(legs.shape[0])
    weights[0] -= 0.5
    weights[-1] += 0.5
    return jnp.tensordot(jnp.asarray(weights, legs.dtype), legs, 1)


def _on_free_units(system: System, state: PyTree, force: PyTree) -> list[PyTree]:
    """The force on units that do not rest on a bound, leaf by leaf."""
    leaves, bounds = jax.tree.leaves(force), system.bounds()
    if bounds is None:
        return leaves

    def inside(f, s, low, high, read):
        # A layer that no nudge pulls at costs nothing.
        return jnp.where((s > low) & (s < high), f, jnp.zeros_like(f)) if read else jnp.zeros_like(f)

    read = leaves_read(system, state)
    return list(map(inside, leaves, *(jax.tree.leaves(tree) for tree in (state, *bounds)), read))


def _check_holomorphic(system):
    if not system.holomorphic:
        raise ValueError(
            f"`{type(system).__name__}` does not declare that its energy is holomorphic, so complex nudges "
            "would be wrong. Set `holomorphic = True` on the class if `energy` is analytic in the state (no abs, max, "
            "clip, conj), or use `symmetric` or `richardson`."
        )
