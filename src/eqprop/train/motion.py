r"""What a system in motion owes: conserved energy, reversibility, an integrator of its order, the right gradient.

For a Hamiltonian system without drive the leapfrog conserves the energy but for an oscillation of size $O(h^2)$; run
back, it returns to its start to rounding; and its end point errs by $O(h^2)$. A path between given ends is held to the
same: the energy $v\cdot\partial L/\partial v - L$ at the middle of each step, the path at half and a quarter of the
step, and the equations of motion of the path run backwards. Friction takes energy out, and makes an echo amplify.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from eqprop.cost import Cost, SquaredError
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.estimate import Estimator
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.motion import Chain, Hamiltonian
from eqprop.settle.base import rms, settle
from eqprop.settle.echo import Echo
from eqprop.settle.leapfrog import drift, gain
from eqprop.settle.path import PathNewton
from eqprop.settle.retrace import honest_length, sharpness
from eqprop.settle.run import Run
from eqprop.substrates.trajectory import Path
from eqprop.system import System

__all__ = ["MotionCheck", "check_motion", "energy_along"]


@dataclasses.dataclass(frozen=True)
class MotionCheck:
    """The verdict on a system in motion, with its figures."""

    drift: float | None
    """Largest change of the energy along the motion, over its largest value; None where a drive changes it."""
    drift_halved: float | None
    """The same at half the step."""
    order: float | None
    """Order of the end point's (or the path's) error in the step, to be 2. None where it was not measured."""
    retrace: float | None
    """How far an echo without nudge misses the start, over the size of the motion. Of a path: how far it misses its
    equations of motion when it is run backwards, over the largest force."""
    sharpness: float | None
    """Step times highest frequency at the start; stable below 2."""
    honest: int | None
    """Longest honest number of samples."""
    amplified: float | None
    """How much an echo amplifies, because it gains what friction took. None without friction."""
    certificate: Certificate
    """The gradient against the exact one."""
    problems: tuple[str, ...]
    """What is wrong, with the remedy; empty where nothing is."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        def line(name, value):
            return (
                None
                if value is None
                else f"{name:<34}{value:.2e}"
                if isinstance(value, float)
                else f"{name:<34}{value}"
            )

        lines = [
            line("energy drift", self.drift),
            line("energy drift at half the step", self.drift_halved),
            None if self.order is None else f"{'order of the integrator':<34}{self.order:.2f}",
            line("retrace error", self.retrace),
            line("step times highest frequency", self.sharpness),
            line("longest honest length [samples]", self.honest),
            line("gain of an echo, for friction", self.amplified),
            str(self.certificate),
            *(f"problem: {problem}" for problem in self.problems),
        ]
        return "\n".join(text for text in lines if text is not None)


def check_motion(
    system: System,
    inputs: PyTree = None,
    cost: Cost | None = None,
    targets: PyTree = None,
    *,
    propagate: Estimator | None = None,
) -> MotionCheck:
    """Check a `Hamiltonian` system or a `Path` (of any other `Chain` the gradient alone). Use float64.

    Args:
        system: The system.
        inputs: A batch of inputs; a few examples will do. None for a system that no drive acts on.
        cost: What is wanted of the output; half the squared distance by default.
        targets: Targets of the batch; zeros by default.
        propagate: The estimator to hold against the truth; symmetric, at a small beta, by default.

    Raises:
        ValueError: for a system that is neither, or one that needs inputs and was given none.
    """
    cost = SquaredError() if cost is None else cost
    if not isinstance(system, Hamiltonian | Chain):
        raise ValueError(
            f"`check_motion` is for `Hamiltonian` and `Path` systems; `{type(system).__name__}` is neither."
        )
    inputs = jax.tree.map(jnp.asarray, _undriven(system) if inputs is None else inputs)
    targets = _zeros(system, inputs, targets)
    example = jax.tree.map(lambda leaf: leaf[0], inputs)
    if isinstance(system, Hamiltonian):
        return _check_hamiltonian(system, inputs, example, cost, targets, propagate)
    propagate = EquilibriumPropagation(symmetric(1e-3), PathNewton()) if propagate is None else propagate
    certificate = certify(system, cost, inputs, targets, propagate)
    if not isinstance(system, Path):
        return MotionCheck(None, None, None, None, None, None, None, certificate, certificate.reasons)
    return _check_path(system, example, certificate)


def _undriven(system):
    """Inputs of one example on which nothing depends."""
    none = (
        jnp.zeros((1, system.steps + 1, system.lagrangian.dimension)) if isinstance(system, Path) else jnp.zeros((1, 1))
    )
    try:
        jax.eval_shape(lambda x: system.energy(system.initial_state(x), x), none[0])
    except Exception as error:
        raise ValueError(
            f"`{type(system).__name__}` needs inputs to be checked ({type(error).__name__}: {error}). "
            "Point at a function that returns (system, cost, inputs, targets), one example per row."
        ) from error
    return none


def _zeros(system, inputs, targets):
    if targets is not None:
        return targets
    shape = jax.eval_shape(jax.vmap(lambda x: system.output(system.initial_state(x))), inputs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)


def _check_hamiltonian(system, inputs, example, cost, targets, propagate):
    begin = system.begin(example)
    at = jax.tree.map(lambda leaf: leaf[0], system.drive(example))
    lost = halved = order = None
    if not jax.tree.leaves(at):
        lost, halved, order = _integration(system, example)
    sharp = float(sharpness(system, at, *begin))
    samples = system.length(example)
    amplified = gain(system, samples)
    if propagate is None:
        propagate = EquilibriumPropagation(symmetric(1e-4 / min(amplified, 1e8)), Echo())
    certificate = certify(system, cost, inputs, targets, propagate, truth=BackpropagationThroughTime(Run()))
    probe = Echo().solve(system, example, None, free=None, key=None)
    missed = float(probe.residual) / max(float(rms(probe.state)), 1e-300)
    honest = honest_length(system, example)
    problems = list(certificate.reasons)
    if not sharp < 2:
        problems.append(f"The step times the highest frequency is {sharp:.3g}, and must stay below 2: lower `step`.")
    if honest < samples:
        cause = f": friction makes them amplify by {amplified:.1e}. Shorten" if amplified > 1e3 else ": shorten"
        problems.append(f"Echoes are honest for {honest} of {samples} samples{cause} the run.")
    if order is not None and sharp < 1 and not 1.7 < order < 2.3:
        problems.append(
            f"Halving the step changes the end point with order {order:.2f} instead of 2: the potential or the kinetic "
            "energy is not smooth, or the run is too long for its step."
        )
    friction = amplified if system.friction_rate() else None
    return MotionCheck(lost, halved, order, missed, sharp, honest, friction, certificate, tuple(problems))


def _check_path(system, example, certificate):
    solver = PathNewton(rtol=1e-11, atol=1e-13)
    path = _settled(system, example, solver)
    problems = list(certificate.reasons)
    reverse = _unlike_reversed(system, path, example)
    lost = halved = order = None
    if path is not None and _autonomous(system, path, example):
        lost = _energy_drift(system, path, example)
        finer = [
            Path(system.lagrangian, system.ends, steps=factor * system.steps, duration=system.duration)
            for factor in (2, 4)
        ]
        paths = [path, *(_settled(fine, _repeated(system, example, fine.steps), solver) for fine in finer)]
        if all(each is not None for each in paths):
            halved = _energy_drift(finer[0], paths[1], _repeated(system, example, finer[0].steps))
            coarse, fine = (float(jnp.linalg.norm(paths[k][:: 2**k] - paths[k + 1][:: 2 ** (k + 1)])) for k in range(2))
            order = float(np.log2(coarse / fine)) if fine > 1e-11 else None
    if order is not None and not 1.7 < order < 2.3:
        problems.append(
            f"Halving the step changes the path with order {order:.2f} instead of 2: the Lagrangian is not smooth, or "
            "`steps` is too small for the motion."
        )
    return MotionCheck(lost, halved, order, reverse, None, None, None, certificate, tuple(problems))


def _settled(system, example, solver):
    """All points of the stationary path, or None where it does not settle."""
    found = settle(system, example, solver, throw=False)
    return system.ends.path(found.state, example) if bool(found.settled) else None


def _repeated(system, example, steps):
    """The inputs of a constant drive, for another number of steps."""

    def longer(leaf):
        lengths = (system.steps, system.steps + 1)
        return jnp.broadcast_to(leaf[:1], (steps + 1, *leaf.shape[1:])) if leaf.shape[0] in lengths else leaf

    drive = system.ends.drive(example)
    if drive is example:
        return jax.tree.map(longer, example)
    return {**example, "drive": jax.tree.map(longer, drive)} if drive is not None else example


def _autonomous(system, path, example):
    """Whether neither time nor a changing drive enters the Lagrangian along a path."""
    drive = system.ends.drive(example)
    if any(bool(jnp.any(leaf != leaf[:1])) for leaf in jax.tree.leaves(drive)):
        return False
    at = jax.tree.map(lambda leaf: leaf[0], drive)
    velocity = jnp.diff(path, axis=0) / system.step
    times = jnp.arange(system.steps, dtype=path.dtype) * system.step

    def change(q, v, t):
        return jax.jvp(lambda s: system.lagrangian(q, v, s, at), (t,), (jnp.ones_like(t),))[1]

    return not bool(jnp.any(jnp.asarray(jax.vmap(change)(path[:-1], velocity, times)) != 0))


def _energy_drift(system, path, example):
    """Largest change of the energy along a path, over its largest value."""
    at = jax.tree.map(lambda leaf: leaf[0], system.ends.drive(example))
    middle, velocity = (path[1:] + path[:-1]) / 2, jnp.diff(path, axis=0) / system.step

    def energy(q, v):
        value, momentum = jax.value_and_grad(system.lagrangian, argnums=1)(q, v, jnp.zeros((), q.dtype), at)
        return jnp.sum(momentum * v) - value

    energies = jax.vmap(energy)(middle, velocity)
    return float(jnp.max(jnp.abs(energies - energies[0])) / jnp.maximum(jnp.max(jnp.abs(energies)), 1e-300))


def _unlike_reversed(system, path, example):
    """How far the path run backwards misses the equations of motion, over the largest force; 0 for a reversible one."""
    if path is None:
        return None
    drive = jax.tree.map(lambda leaf: leaf[::-1], system._by_point(system.ends.drive(example)))
    terms = jax.jacrev(lambda p: system.link_actions(p, drive))(path[::-1])[:, 1:-1]
    return float(jnp.max(jnp.abs(jnp.sum(terms, axis=0))) / jnp.max(jnp.abs(terms)))


def energy_along(
    system: Hamiltonian, inputs: PyTree, *, refine: int = 1
) -> tuple[Float[Array, " point"], Float[Array, " coordinate"]]:
    """The energy at each point of an undriven run [J], and where it ends; friction takes from it.

    Args:
        system: The system.
        inputs: Inputs of one example.
        refine: The run is made in so many times more, shorter steps.

    Raises:
        ValueError: for a driven run, whose energy is not conserved.
    """
    if jax.tree.leaves(jax.eval_shape(system.drive, inputs)):
        raise ValueError("The energy of a driven run is not conserved; give the system `samples` and no drive.")
    return _undriven_run(system, inputs, refine)


@eqx.filter_jit
def _undriven_run(system, inputs, refine):
    steps = (system.length(inputs) * system.substeps - 1) * refine
    position, momentum = system.begin(inputs)
    step = jnp.asarray(system.step / refine, position.dtype)
    force = jax.grad(lambda q: system.potential(q, None))

    def advance(point, _):
        position, momentum = point
        (position, momentum), _ = drift(system, (position, momentum - 0.5 * step * force(position)), step)
        momentum = momentum - 0.5 * step * force(position)
        return (position, momentum), system.kinetic(momentum) + system.potential(position, None)

    (end, _), energies = jax.lax.scan(advance, (position, momentum), length=steps)
    first = system.kinetic(momentum) + system.potential(position, None)
    return jnp.append(first, energies), end


def _integration(system, example):
    """Energy drift at the step and at half of it (None with friction), and the order of the end point's error."""
    runs = [_undriven_run(system, example, factor) for factor in (1, 2, 4)]
    drifts = [float(jnp.max(jnp.abs(e - e[0])) / jnp.maximum(jnp.max(jnp.abs(e)), 1e-300)) for e, _ in runs]
    ends = [np.asarray(end) for _, end in runs]
    coarse, fine = np.linalg.norm(ends[0] - ends[1]), np.linalg.norm(ends[1] - ends[2])
    order = float(np.log2(coarse / fine)) if fine > 0 else None
    return (None, None, order) if system.friction_rate() else (drifts[0], drifts[1], order)
