r"""Newton's method on a graph: for systems that declare `GraphSystem`, circuits above all.

The constant part of the second derivative is assembled once for all examples, and the quadratic energy's force is a
product with it; an iteration evaluates the further edges alone. Steps are shortened until the slope along them says
that the minimum was not passed by much: a test by derivatives, because differences of the energy drown in
rounding near the minimum.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqprop.equilibrium import RESULT
from eqprop.settle.base import IterativeSolver, Solver, rms
from eqprop.settle.laplacian import Dense, LaplacianSolver
from eqprop.system import Clamped, Forced, GraphSystem, Nudged, System, project

__all__ = ["GraphNewton", "Shunted", "Stepped"]


class GraphNewton(IterativeSolver):
    """Damped Newton iteration on a graph, free or nudged.

    `residual` is the root mean square of the Newton step, hence the distance still to go to first order; the distance
    left after it is about its square.

    Args:
        rtol: Largest step that counts as settled, relative to the state (to the displacement, in a nudged phase).
        atol: The same, in the state's unit.
        max_steps: Most iterations.
        laplacian: How linear systems are solved: `Dense`, or `sparse_direct()` for thousands of units.
        max_halvings: Most halvings of one step.
    """

    rtol: float = 1e-8
    atol: float = 1e-10
    max_steps: int = 100
    laplacian: LaplacianSolver = eqx.field(default_factory=Dense)
    max_halvings: int = 60

    non_finite: ClassVar[RESULT] = RESULT.singular

    def init(self, system, inputs, state, stats):
        graph, nudges = _parts(system)
        still = jnp.zeros_like(state)
        drive = -jax.grad(graph.quadratic)(still, inputs)
        stiffness = graph.quadratic_stiffness().astype(state.dtype)
        constant = self.laplacian.assemble(graph.edges(), stiffness, state.size)
        return constant, drive, self._slope(graph, nudges, inputs, constant, drive)(state)

    def stats(self, carry):
        return {}

    def _slope(self, graph, nudges, inputs, constant, drive):
        """The derivative of the whole energy as a function of the state."""
        edges = graph.edges()

        @jax.jit  # so that it is traced once for all the places where it is called
        def slope(s):
            u, pull_back = jax.vjp(lambda t: graph.extension(t, inputs), s)
            total = self.laplacian.multiply(constant, edges, s) - drive + pull_back(graph.tension(u))[0]
            for nudge in nudges:
                total = total - nudge.force(s)
            return total

        return slope

    def step(self, system, inputs, state, carry):
        graph, nudges = _parts(system)
        constant, drive, gradient = carry
        slope = self._slope(graph, nudges, inputs, constant, drive)
        held = _held(system, state, gradient)
        stiffness = graph.stiffness(graph.extension(state, inputs))
        extra = _curvature(nudges, state)
        direction = self.laplacian.solve(constant, graph.edges(), stiffness, extra, held, -gradient)
        state, gradient = _damped(system, slope, state, gradient, direction, self.max_halvings)
        return state, rms(direction), (constant, drive, gradient)


def _damped(system, slope, state, gradient, direction, max_halvings):
    """The state moved along the direction, not far beyond the minimum along it, and the slope there."""
    steepest = -jnp.dot(gradient, direction)

    def move(scale):
        stepped = project(system, state + scale * direction)
        return stepped, slope(stepped)

    def beyond(trial):
        scale, (stepped, there), halvings = trial
        rise = jnp.dot(there, stepped - state) / scale
        # At the rounding floor the slope is noise: take the step.
        small = rms(direction) <= 1e-9 * rms(state)
        # Where the energy need not be convex the direction may lead uphill, to a saddle: the same test, turned around.
        passed = jnp.sign(steepest) * rise <= 0.5 * jnp.abs(steepest)
        return ~passed & ~small & (halvings < max_halvings)

    def halve(trial):
        scale, _, halvings = trial
        return 0.5 * scale, move(0.5 * scale), halvings + 1

    whole = jnp.ones((), state.dtype)
    _, moved, _ = jax.lax.while_loop(beyond, halve, (whole, move(whole), 0))
    return moved


def _parts(system: System) -> tuple[GraphSystem, list[Nudged]]:
    """The system on a graph, and the nudges around it."""
    nudges = []
    while isinstance(system, Nudged):
        nudges.append(system)
        system = system.system
    if not isinstance(system, GraphSystem):
        raise ValueError(f"`GraphNewton` needs a `GraphSystem`; `{type(system).__name__}` is none. Use `Newton`.")
    return system, nudges


def _curvature(nudges, state: Float[Array, " unit"]):
    """Second derivative of the nudges; None for constant forces, which have none."""
    curved = [nudge for nudge in nudges if not isinstance(nudge, Forced | Clamped)]
    if not curved:
        return None
    return sum(jax.hessian(nudge.nudge_energy)(state) for nudge in curved)


def _held(system, state, gradient):
    """Units on a bound that the gradient pushes outward; None where there are no bounds."""
    bounds = system.bounds()
    if bounds is None:
        return None
    lower, upper = bounds
    return ((state <= lower) & (gradient >= 0)) | ((state >= upper) & (gradient <= 0))


class Shunted(Nudged):
    r"""Every unit tied to zero by a spring (a node by a resistor): $F = E + \tfrac12\beta\lVert s\rVert^2$."""

    system: System
    beta: Float[Array, ""]

    def nudge_energy(self, state):
        return 0.5 * self.beta * sum(jnp.sum(s**2) for s in jax.tree.leaves(state))


class Stepped(Solver):
    """A solver with a way out: where it fails, shunts are removed in steps, then the inputs raised in steps.

    The first is SPICE's gmin stepping, the second its source stepping. Examples that settle at once pay nothing.

    Args:
        solver: What settles every step.
        shunts: Conductances (stiffnesses) to ground, from large to small; then none. [S]
        ramps: Fractions of the inputs, rising; then the whole.
    """

    solver: Solver = eqx.field(default_factory=GraphNewton)
    shunts: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
    ramps: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)

    def solve(self, system, inputs, start, *, free, key):
        dtype = jax.tree.leaves(start)[0].dtype
        shunts = jnp.asarray([*self.shunts, 0.0, *(0.0 for _ in self.ramps), 0.0], dtype)
        fractions = jnp.asarray([*(1.0 for _ in self.shunts), 1.0, *self.ramps, 1.0], dtype)

        def failing(loop):
            stage, _, found = loop
            last = (shunts[stage - 1] == 0) & (fractions[stage - 1] == 1)
            return (stage < len(shunts)) & ~(last & found.settled)

        def advance(loop):
            stage, state, _ = loop
            # The ramp begins anew: where the shunts led is where it went wrong.
            state = jax.tree.map(lambda s, o: jnp.where(stage == len(self.shunts) + 1, o, s), state, start)
            scaled = jax.tree.map(lambda x: fractions[stage].astype(x.dtype) * x, inputs)
            found = self.solver.solve(Shunted(system, shunts[stage]), scaled, state, free=free, key=key)
            kept = jax.tree.map(lambda n, o: jnp.where(found.settled, n, o), found.state, state)
            return stage + 1, kept, found

        first = self.solver.solve(system, inputs, start, free=free, key=key)
        begin = jnp.where(first.settled, len(shunts), 0)
        _, _, found = jax.lax.while_loop(failing, advance, (begin, start, first))
        return found
