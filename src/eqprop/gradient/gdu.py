r"""Gradient-descending updates: what equilibrium propagation does at each step, beside backpropagation through time.

A network in discrete time iterates a map to a fixed point $s^\star$. Where the map comes of a scalar, step $t$ of the
nudged phase moves parameters and states by exactly what backpropagation through time computes $t$ steps before the end
of the free phase, as $\beta \to 0$:

$$\frac{\partial_\theta F_\beta(s^\beta_{t+1}) - \partial_\theta F_\beta(s^\beta_t)}{\beta}
\to \frac{\partial L}{\partial\theta_{T-t}}, \qquad
-\frac{s^\beta_{t+1} - s^\beta_t}{\beta} \to \frac{\partial L}{\partial f_{T-t}}$$

with $\theta_\tau$ the parameters used in step $\tau$, and $f_\tau$ a force on the units in step $\tau$. A force enters
where the nudge does, inside the activation, so its gradient is $\sigma'$ times that of the state; without an activation
the two are one. All curves are signed as gradients: descending updates are minus them.

Source:
    M. Ernoult et al., Updates of equilibrium prop match gradients of backprop through time in an RNN with static
    input, 2019. B. Scellier, A deep learning theory for neural networks grounded in physics, 2021, section 5.2.
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from eqprop.cost import Cost
from eqprop.gradient.estimate import batch_size, check_batch, free_phase
from eqprop.gradient.stencil import Stencil
from eqprop.settle.base import IterativeSolver, Solver
from eqprop.settle.descent import FixedPoint
from eqprop.system import ConstantForce, CostNudged, Nudge, System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["UpdateComparison", "compare_updates", "plot_updates"]

NEGLIGIBLE = 1e-6
"""Curves below this part of their array's largest have no sign and no shape of their own."""


class UpdateComparison(eqx.Module):
    """Per-step curves of both rules; leading axis the step, counted from the end of the free phase backwards."""

    parameter_updates: PyTree
    """By equilibrium propagation, of the batch mean: a tree like the system. [step, ...]"""
    parameter_gradients: PyTree
    """By backpropagation through time. [step, ...]"""
    state_updates: PyTree
    """By equilibrium propagation: a tree like the state. [step, batch, ...]"""
    state_gradients: PyTree
    """By backpropagation through time, in a force on the units. [step, batch, ...]"""
    settled: Bool[Array, " batch"]
    """Which free phases settled; the curves agree only for those."""

    @property
    def relative_error(self) -> Float[Array, ""]:
        """Norm of the difference over the norm of the gradients, parameters."""
        return _relative_error(self.parameter_updates, self.parameter_gradients)

    @property
    def state_relative_error(self) -> Float[Array, ""]:
        """Norm of the difference over the norm of the gradients, states."""
        return _relative_error(self.state_updates, self.state_gradients)

    @property
    def relative_rms(self) -> Float[Array, ""]:
        r"""Mean over parameters of $\mathrm{rms}_t(a - b) / \max(\mathrm{rms}_t a, \mathrm{rms}_t b)$.

        Parameters whose curves stay below a millionth of their array's largest do not count.
        """
        return _relative_rms(self.parameter_updates, self.parameter_gradients)

    @property
    def state_relative_rms(self) -> Float[Array, ""]:
        """The same over units and examples."""
        return _relative_rms(self.state_updates, self.state_gradients)

    @property
    def sign_agreement(self) -> Float[Array, ""]:
        """Fraction of parameter updates with the gradient's sign, of gradients above a millionth of the largest.

        Below that lie layers that neither rule has reached yet.
        """
        return _sign_agreement(self.parameter_updates, self.parameter_gradients)

    def __str__(self):
        steps = jax.tree.leaves(self.state_updates)[0].shape[0]
        return (
            f"{steps} steps, {int(jnp.sum(self.settled))} of {self.settled.shape[0]} free phases settled. "
            f"Parameters: relative error {float(self.relative_error):.2e}, relative RMS "
            f"{float(self.relative_rms):.2e}, signs agree {100 * float(self.sign_agreement):.2f} %. States: relative "
            f"error {float(self.state_relative_error):.2e}, relative RMS {float(self.state_relative_rms):.2e}."
        )


def compare_updates(
    system: System,
    cost: Cost,
    inputs: PyTree,
    targets: PyTree,
    *,
    steps: int = 10,
    stencil: Stencil | None = None,
    solver: Solver | None = None,
    free_solver: Solver | None = None,
    nudge: Nudge = CostNudged,
) -> UpdateComparison:
    """Equilibrium propagation beside backpropagation through time, step by step.

    Args:
        system: The network; any system that a solver settles step by step.
        cost: What is wanted of the output.
        inputs: Inputs, leading axis the batch.
        targets: Targets, leading axis the batch.
        steps: Steps of the nudged phase, and steps backwards in time.
        stencil: Nudging strengths; None for the limit of no nudging, by forward-mode differentiation in beta.
        solver: Its step is the network's map: `FixedPoint` (the default), or `GradientFlow` for Euler steps of a
            flow. Steps that are no derivative of a scalar (`BlockDescent`) have no such property, and show none.
        free_solver: Settles the free phase, tightly; a tight `FixedPoint` by default.
        nudge: `CostNudged`, as in the theorem, or `Forced`.

    Returns:
        The curves, and their distances.

    Raises:
        ValueError: for `steps` below 1, a solver without steps, shapes that do not fit, NaN.

    Example:
        >>> import jax, jax.numpy as jnp, eqprop as ep
        >>> network = ep.LayeredHopfield([3, 8, 2], key=jax.random.key(0), activation=ep.Tanh())
        >>> both = ep.compare_updates(network, ep.SquaredError(), jnp.ones((4, 3)), jnp.ones((4, 2)))
        >>> bool(both.relative_error < 1e-3)
        True
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1; got {steps}.")
    solver = FixedPoint(rtol=1e-12, atol=1e-12, max_steps=10_000) if solver is None else solver
    if not isinstance(solver, IterativeSolver):
        raise ValueError(f"`solver` must make steps, such as `FixedPoint`; got {type(solver).__name__}.")
    inputs, targets = jax.tree.map(jnp.asarray, (inputs, targets))
    check_batch(system, inputs, targets)
    free_solver = solver if free_solver is None else free_solver
    return _compare(system, cost, inputs, targets, steps, stencil, solver, free_solver, nudge)


@eqx.filter_jit
def _compare(system, cost, inputs, targets, steps, stencil, solver, free_solver, nudge):
    free = free_phase(system, free_solver, inputs, None, None)

    parameters, rest = eqx.partition(system, eqx.is_inexact_array)

    def parameter_slope(beta, states):
        def energy(parameters, x, y, free, state):
            return nudge(eqx.combine(parameters, rest), cost, y, jax.lax.stop_gradient(free), beta).energy(state, x)

        def mean(parameters):
            return jnp.mean(jax.vmap(lambda *example: energy(parameters, *example))(inputs, targets, free, states))

        return jax.grad(mean)(parameters)

    def advance(beta, states):
        def one(x, y, free, state):
            return _step(nudge(system, cost, y, free, beta), solver, x, state)

        return jax.vmap(one)(inputs, targets, free, states)

    def nudged_phase(beta):
        def body(states, _):
            after = advance(beta, states)
            return after, (after, parameter_slope(beta, after))

        begin = free.state
        rest = jax.lax.scan(body, begin, length=steps)[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), (begin, parameter_slope(beta, begin)), rest)

    states, slopes = _response(nudged_phase, stencil, jax.tree.leaves(free.state)[0].dtype)
    # What the cost itself has of parameters (a readout) is felt at once, as in the last step of the free phase.
    parameter_updates = jax.tree.map(lambda s: jnp.diff(s, axis=0).at[0].add(s[0]), slopes)
    state_updates = jax.tree.map(lambda s: -jnp.diff(s, axis=0), states)
    parameter_gradients, state_gradients = _through_time(system, cost, inputs, targets, steps, solver, free)
    return UpdateComparison(parameter_updates, parameter_gradients, state_updates, state_gradients, free.settled)


def _step(system, solver, x, state):
    return solver.step(system, x, state, solver.init(system, x, state, {}))[0]


def _response(phase, stencil, dtype):
    """Derivative of the curves in beta at zero: the stencil's, or exact."""
    zero = jnp.zeros((), dtype)
    if stencil is None:
        return jax.jvp(phase, (zero,), (jnp.ones((), dtype),))[1]
    curves = jax.vmap(phase)(stencil.nodes.astype(dtype))
    return jax.tree.map(lambda c: jnp.tensordot(stencil.weights.astype(dtype), c, 1), curves)


def _through_time(system, cost, inputs, targets, steps, solver, free):
    """Gradients in the parameters and in a force, of each of the last steps, the last step first."""
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    count, one = batch_size(inputs), jnp.ones((), jax.tree.leaves(free.state)[0].dtype)

    def onward(parameters, force, states):
        combined = eqx.combine(parameters, rest)
        return jax.vmap(lambda x, f, s: _step(_Pushed(combined, f, one), solver, x, s))(inputs, force, states)

    still = jax.tree.map(jnp.zeros_like, free.state)
    # The free phase goes on for the steps that are differentiated.
    last, before = jax.lax.scan(lambda s, _: (onward(parameters, still, s), s), free.state, length=steps)

    def costs(parameters, states):
        combined = eqx.combine(parameters, rest)
        return jnp.sum(jax.vmap(lambda s, y: cost(combined.output(s), y))(states, targets))

    direct, adjoint = jax.grad(costs, argnums=(0, 1))(parameters, last)

    def backward(adjoint, states):
        pull = jax.vjp(onward, parameters, still, states)[1]
        in_parameters, in_force, earlier = pull(adjoint)
        return earlier, (in_parameters, in_force)

    _, (in_parameters, in_force) = jax.lax.scan(backward, adjoint, before, reverse=True)
    in_parameters, in_force = jax.tree.map(lambda leaf: leaf[::-1], (in_parameters, in_force))
    in_parameters = jax.tree.map(lambda g, d: g.at[0].add(d) / count, in_parameters, direct)
    return in_parameters, in_force


class _Pushed(ConstantForce):
    """A system under a constant force on its state: the probe of backpropagation through time."""

    system: System
    push: PyTree
    beta: Inexact[Array, ""]

    def nudge_energy(self, state):
        work = jax.tree.map(lambda f, s: jnp.sum(f * s), self.push, state)
        return -self.beta * sum(jax.tree.leaves(work))


def plot_updates(comparison: UpdateComparison, *, entries: int = 4) -> "Figure":
    """Both rules over time: a panel for each parameter and each part of the state, with its largest entries.

    Lines are backpropagation through time, dots equilibrium propagation.

    Args:
        comparison: What `compare_updates` returned.
        entries: Curves in each panel.
    """
    from matplotlib.figure import Figure  # late: it takes a second to import

    panels = [*_named("", comparison.parameter_updates, comparison.parameter_gradients)]
    panels += _named("state", comparison.state_updates, comparison.state_gradients)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    for place, (name, updates, gradients) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        updates, gradients = (curve.reshape(curve.shape[0], -1) for curve in (updates, gradients))
        chosen = jnp.argsort(-jnp.sum(gradients**2, 0))[:entries]
        for number, entry in enumerate(chosen):
            axes.plot(gradients[:, entry], color=f"C{number}")
            axes.plot(updates[:, entry], "o", color=f"C{number}", markersize=3)
        axes.set(title=name, xlabel="steps from the end of the free phase", ylabel="gradient")
    figure.suptitle("lines: backpropagation through time; dots: equilibrium propagation")
    return figure


def _named(prefix, updates, gradients):
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    for (path, update), gradient in zip(leaves, jax.tree.leaves(gradients), strict=True):
        yield (prefix + jax.tree_util.keystr(path)).lstrip("."), update, gradient


def _relative_error(updates, gradients):
    difference = sum(jnp.sum((u - g) ** 2) for u, g in _pairs(updates, gradients))
    size = sum(jnp.sum(g**2) for _, g in _pairs(updates, gradients))
    return jnp.sqrt(difference / jnp.where(size > 0, size, 1))


def _relative_rms(updates, gradients):
    distances, counts = [], []
    for u, g in _pairs(updates, gradients):
        distance = jnp.sqrt(jnp.mean((u - g) ** 2, 0))
        size = jnp.maximum(jnp.sqrt(jnp.mean(u**2, 0)), jnp.sqrt(jnp.mean(g**2, 0)))
        seen = size > NEGLIGIBLE * jnp.max(size)
        distances.append(jnp.sum(jnp.where(seen, distance / jnp.where(seen, size, 1), 0)))
        counts.append(jnp.sum(seen))
    total = jnp.sum(jnp.stack(distances))
    return total / jnp.maximum(jnp.sum(jnp.stack(counts)), 1).astype(total.dtype)


def _sign_agreement(updates, gradients):
    agree = count = 0
    for u, g in _pairs(updates, gradients):
        seen = jnp.abs(g) > NEGLIGIBLE * jnp.max(jnp.abs(g))
        agree, count = agree + jnp.sum(seen & (u * g > 0)), count + jnp.sum(seen)
    return agree / jnp.maximum(count, 1)


def _pairs(updates, gradients):
    return list(zip(jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True))
