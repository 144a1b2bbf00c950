r"""Descent: gradient flow, synchronous fixed point, exact block descent.

* `GradientFlow`: Euler steps of $\dot s = -\partial E/\partial s$, projected on the bounds.
* `AdaptiveGradientFlow`: the same flow by an adaptive integrator of diffrax.
* `FixedPoint`: all blocks replaced at once by their minimisers, $s \leftarrow \sigma(\partial\Phi/\partial s)$.
* `BlockDescent`: one block after the other, with over-relaxation from the measured contraction.

Source:
    B. Scellier and Y. Bengio, Equilibrium propagation: bridging the gap between energy-based models and
    backpropagation, 2017. L. A. Hageman and D. M. Young, Applied iterative methods, 1981, chapter 9.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from eqprop.equilibrium import RESULT, Equilibrium
from eqprop.settle.base import IterativeSolver, Solver, projected_gradient, real_dtype, rms, state_gradient
from eqprop.system import Nudged, System, leaves_read, project

__all__ = ["AdaptiveGradientFlow", "BlockDescent", "FixedPoint", "GradientFlow"]


class GradientFlow(IterativeSolver):
    r"""Euler steps $s \leftarrow P(s - h\,\partial E/\partial s)$ down to rest, as in the literature.

    Stable for steps `step` below two over the largest curvature of the energy.
    """

    step_size: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.5)
    rtol: float = 1e-5
    atol: float = 1e-7
    max_steps: int = 2_000

    def init(self, system, inputs, state, stats):
        return None

    def stats(self, carry):
        return {}

    def step(self, system, inputs, state, carry):
        size = self.step_size
        gradient = state_gradient(system, state, inputs)
        moved = project(system, jax.tree.map(lambda s, g: s - size.astype(s.real.dtype) * g, state, gradient))
        speed = rms(jax.tree.map(jnp.subtract, moved, state)) / size.astype(jax.tree.leaves(state)[0].real.dtype)
        return moved, speed, carry


class AdaptiveGradientFlow(Solver):
    """The gradient flow integrated by diffrax with error control, until the flow stands still.

    For stiff energies take an implicit method (`diffrax.Kvaerno5()`). Systems with bounds are refused: an
    adaptive integrator does not stop at a wall.
    """

    integrator: diffrax.AbstractSolver = eqx.field(default_factory=diffrax.Tsit5)
    rtol: float = 1e-5
    atol: float = 1e-7
    time: float = 1e4
    max_steps: int = 10_000

    def solve(self, system, inputs, start, *, free, key):
        del key
        if system.bounds() is not None:
            raise ValueError(
                f"`AdaptiveGradientFlow` cannot keep `{type(system).__name__}` within its bounds. "
                "Use `GradientFlow`, `BlockDescent` or `Newton`."
            )

        def limit(state):
            if free is None:
                return self.atol + self.rtol * rms(state)
            return self.rtol * rms(jax.tree.map(jnp.subtract, state, free.restart))

        def velocity(_time, state, _args):
            return jax.tree.map(jnp.negative, state_gradient(system, state, inputs))

        def at_rest(_time, state, _args, **_options):
            return rms(state_gradient(system, state, inputs)) <= limit(state)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            self.integrator,
            t0=jnp.zeros((), real_dtype(start)),
            t1=jnp.asarray(self.time, real_dtype(start)),
            dt0=None,
            y0=start,
            stepsize_controller=diffrax.PIDController(rtol=0.1 * self.rtol, atol=0.1 * self.atol),
            event=diffrax.Event(at_rest),
            max_steps=self.max_steps,
            throw=False,
        )
        state = jax.tree.map(lambda ys: ys[-1], solution.ys)
        residual = rms(state_gradient(system, state, inputs))
        settled = jnp.isfinite(residual) & (residual <= limit(state))
        unsettled = RESULT.where(jnp.isfinite(residual), RESULT.max_steps_reached, RESULT.diverged)
        steps = jnp.asarray(solution.stats["num_steps"], jnp.int32)
        return Equilibrium(state, RESULT.where(settled, RESULT.settled, unsettled), residual, steps)


class FixedPoint(IterativeSolver):
    r"""Synchronous iteration: every block is replaced by its minimiser given the *old* state.

    Without declared blocks it is $s \leftarrow P(s - \partial E/\partial s)$, the iteration of discrete-time
    networks, $E = \tfrac12\lVert s\rVert^2 - \Phi$.
    """

    rtol: float = 1e-5
    atol: float = 1e-7
    max_steps: int = 1_000
    relaxation: float = 1.0

    def init(self, system, inputs, state, stats):
        return jnp.full((), jnp.inf, real_dtype(state))

    def stats(self, carry):
        return {}

    def step(self, system, inputs, state, carry):
        move = synchronous_change(system, inputs, state)
        moved = jax.tree.map(lambda s, c: s + self.relaxation * c, state, move)
        change = jax.lax.stop_gradient(rms(move))
        return project(system, moved), distance(change, carry), change


class BlockDescent(IterativeSolver):
    r"""Exact minimisation of one declared block after the other.

    A block's minimiser is the system's own (`System.minimise_block`), else the gradient over the curvature of
    the block (a few guarded scalar Newton steps; one is exact where the block is quadratic), projected on
    the bounds.

    With `relaxation=None` each block is moved $\omega$ times its way, with $\omega$ from the contraction
    $\lambda$ that the example's own sweeps show: Young's relation $(\lambda + \omega - 1)^2 = \lambda\omega^2\mu^2$
    gives the spectral radius $\mu$ of the synchronous iteration, and $\omega = 2/(1 + \sqrt{1 - \mu^2})$ is best for
    two blocks. A number fixes $\omega$; 1 is plain descent.
    """

    rtol: float = 1e-5
    atol: float = 1e-7
    max_steps: int = 500
    relaxation: float | None = None
    newton_steps: int = 4

    def __check_init__(self):
        if self.relaxation is not None and not 0 < self.relaxation < 2:
            raise ValueError(f"`BlockDescent.relaxation` must lie in (0, 2); got {self.relaxation}.")

    def init(self, system, inputs, state, stats):
        blocks = system.blocks()
        if blocks is None:
            raise ValueError(
                f"`{type(system).__name__}` declares no blocks, which `BlockDescent` needs. Declare `blocks()`, or use "
                "`Newton`, `GradientFlow` or `FixedPoint`."
            )
        check_blocks(system, blocks, state)
        one = jnp.ones((), jax.tree.leaves(state)[0].dtype)
        one = _decoupled(system, blocks, inputs, state, one)
        omega = stats.get("relaxation", one) if self.relaxation is None else self.relaxation * one
        return omega, jnp.inf * one

    def stats(self, carry):
        return {"relaxation": carry[0]}

    def step(self, system, inputs, state, carry):
        omega, before = carry
        squares, size = 0.0, sum(leaf.size for leaf in jax.tree.leaves(state))
        for index, mask in _in_order(system, state):
            target = block_minimiser(system, inputs, state, index, mask, self.newton_steps)
            move = masked(mask, jax.tree.map(jnp.subtract, target, state))
            squares = squares + sum(jnp.sum(c**2) for c in jax.tree.leaves(move))
            moved = project(
                system, jax.tree.map(lambda s, c: s if c is None else s + omega * c, state, move, is_leaf=_is_none)
            )
            # Leaves outside the block stay the same arrays, not projected ones: what the next block computes of them
            # (a convolution) is then seen to be the same, and computed once.
            state = jax.tree.map(lambda c, s, m: s if c is None else m, move, state, moved, is_leaf=_is_none)
        # The choice of omega is no part of the mathematics: reverse-mode through the sweeps must not see it.
        change = jax.lax.stop_gradient(jnp.sqrt(squares / size))
        if self.relaxation is None:
            omega = jax.lax.stop_gradient(_young(omega, change, before))
        return state, distance(change, before), (omega, change)


def _in_order(system, state):
    """Numbered blocks. A nudge enters at the outputs: nudged sweeps begin there, lest half a sweep be in vain."""
    blocks = list(enumerate(system.blocks()))
    if not isinstance(system, Nudged):
        return blocks
    read = leaves_read(system, state)

    def has_outputs(mask):
        return any(np.any(m) for m, r in zip(jax.tree.leaves(mask), read, strict=True) if r)

    first = next((index for index, mask in blocks if has_outputs(mask)), 0)
    return blocks[first:] + blocks[:first]


def _is_none(node):
    return node is None


def distance(change: Float[Array, ""], before: Float[Array, ""]) -> Float[Array, ""]:
    r"""How far rest still is, from the changes $c_k$, $c_{k-1}$ of two steps that contract by $\lambda = c_k/c_{k-1}$.

    The steps to come add up to $c_k\lambda/(1-\lambda)$: a slow iteration is far from rest though each step is small.
    Never less than the change itself.
    """
    contraction = jnp.where(before > 0, change / jnp.where(before > 0, before, 1.0), 0.0)
    # A step that grew (after a change of relaxation, say) tells no contraction: count ten such steps then.
    contraction = jnp.where(contraction > 1, 0.9, jnp.clip(contraction, 0.0, 0.999))
    return change * jnp.maximum(contraction / (1 - contraction), 1.0)


def _young(omega, residual, before):
    """Over-relaxation for the next sweep from two residuals. Never above 1.7; back to 1 after a setback."""
    # The first sweep has no contraction (before is infinite), nor has a state already at rest: keep omega.
    contraction = jnp.where(before > 0, residual / jnp.where(before > 0, before, 1.0), 0.0)
    inside = jnp.clip(contraction, 1e-6, 1.0)
    mu_squared = jnp.clip((inside + omega - 1) ** 2 / (inside * omega**2), 0.0, 0.97)
    better = jnp.clip(2 / (1 + jnp.sqrt(1 - mu_squared)), omega, 1.7)
    return jnp.where(contraction > 1, 1.0, jnp.where(contraction > 0, better, omega))


def block_minimiser(system: System, inputs: PyTree, state: PyTree, index: int, mask: PyTree, newton_steps: int):
    """The state with one block at its minimiser: declared, or by guarded scalar Newton steps."""
    declared = system.minimise_block(index, state, inputs, None)
    if declared is not None:
        return declared
    ones = spread(mask, state)
    energy = system.energy(state, inputs)

    def slope(s):
        return jax.grad(system.energy)(s, inputs)

    for _ in range(newton_steps):
        gradient, curvature = jax.jvp(slope, (state,), (ones,))

        def newton(s, g, c, m):
            # Guard: where the curvature is not positive, a plain gradient step.
            return s - m * g / jnp.where(c > 1e-6, c, 1.0)

        trial = project(system, jax.tree.map(newton, state, gradient, curvature, ones))
        trial_energy = system.energy(trial, inputs)
        better = trial_energy <= energy + 1e-6 * jnp.abs(energy)
        halfway = jax.tree.map(lambda s, t: 0.5 * (s + t), state, trial)
        state = jax.tree.map(lambda t, h, b=better: jnp.where(b, t, h), trial, halfway)
        energy = jnp.where(better, trial_energy, system.energy(halfway, inputs))
    return state


def synchronous_change(system: System, inputs: PyTree, state: PyTree) -> PyTree:
    """From the state to where every block would go at once."""
    blocks = system.blocks()
    if blocks is not None:
        targets = [system.minimise_block(i, state, inputs, None) for i in range(len(blocks))]
        if all(target is not None for target in targets):
            total = jax.tree.map(jnp.zeros_like, state)
            for mask, target in zip(blocks, targets, strict=True):
                change = jax.tree.map(jnp.subtract, target, state)
                total = jax.tree.map(lambda m, a, c: a + jnp.asarray(m, c.dtype) * c, mask, total, change)
            return total
    return jax.tree.map(jnp.negative, projected_gradient(system, state, inputs))


def check_blocks(system: System, blocks: tuple[PyTree, ...], state: PyTree) -> None:
    """Raise ValueError unless the masks partition the state."""
    counts = [
        sum(np.broadcast_to(np.asarray(mask, int), leaf.shape) for mask in masks)
        for leaf, *masks in zip(jax.tree.leaves(state), *(jax.tree.leaves(b) for b in blocks), strict=True)
    ]
    if any(np.any(count != 1) for count in counts):
        raise ValueError(
            f"`{type(system).__name__}.blocks()` must hold every unit of the state exactly once; "
            "some unit is in no block, or in several."
        )


def _decoupled(system, blocks, inputs, state, one):
    """`one`, checked: no two units of a block without a declared minimiser interact at `state`."""
    undeclared = [m for i, m in enumerate(blocks) if system.minimise_block(i, state, inputs, None) is None]
    wrong = jnp.zeros((), bool)
    for mask in undeclared:
        inside = spread(mask, state)
        # With a diagonal block of the Hessian, flipping signs of the probe flips the response, unit by unit.
        signs = jax.tree.map(lambda m: m * jnp.asarray(_signs(m.shape), m.dtype), inside)
        even, odd = (
            jax.jvp(lambda s: jax.grad(system.energy)(s, inputs), (state,), (probe,))[1] for probe in (inside, signs)
        )
        gap = rms(jax.tree.map(lambda e, o, m, p: (m * o - p * e) * m, even, odd, inside, signs))
        wrong = wrong | (gap > 1e-4 * rms(jax.tree.map(jnp.multiply, even, inside)))
    message = (
        f"Two units of one block of `{type(system).__name__}` interact, so the block cannot be minimised unit by unit. "
        "Colour the graph of couplings anew, or use `Newton`."
    )
    return eqx.error_if(one, wrong, message) if undeclared else one


def _signs(shape):
    return np.random.default_rng(0).choice([-1.0, 1.0], shape)


def spread(mask: PyTree, state: PyTree) -> PyTree:
    """A mask as numbers, of the state's shapes and type."""
    return jax.tree.map(lambda m, s: jnp.broadcast_to(jnp.asarray(m, s.dtype), s.shape), mask, state)


def masked(mask: PyTree, change: PyTree) -> PyTree:
    """`change` within the block; None for leaves wholly outside, so that they cost nothing."""
    return jax.tree.map(
        lambda m, c: (c if m else None) if isinstance(m, bool) else jnp.where(m, c, jnp.zeros_like(c)), mask, change
    )
