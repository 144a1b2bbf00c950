r"""The echo: a run forward, the momenta turned round, and the same machine run back under a nudge.

Turning the momenta makes the leapfrog retrace its own steps, to rounding. A replay nudged by $\beta c$ leaves that
path, and shares its end with it, so that no boundary term is left and

$$\frac{dC}{d\theta} = \frac{d}{d\beta}\int\frac{\partial H}{\partial\theta}\,dt, \qquad
\frac{dC}{dq_0} = -\frac{d}{d\beta}P_{\mathrm{echo}}, \qquad \frac{dC}{dp_0} = -\frac{d}{d\beta}q_{\mathrm{echo}}$$

at the end of the replay. The limit $\beta \to 0$ is the derivative of the discrete map itself, for any step.

`Echo` stores the path and so serves any estimator; `eqprop.settle.stream` holds one point of a path at a time, for
`EchoPropagation`.

Source:
    V. Lopez-Pastor and F. Marquardt, Self-learning machines based on Hamiltonian echo backpropagation, 2023;
    G. Pourcel and M. Ernoult, Learning long range dependencies through time reversal symmetry breaking, 2025.
"""

import jax
import jax.numpy as jnp

from eqprop.equilibrium import RESULT
from eqprop.motion import PhasePath, fading, kick_weights
from eqprop.settle.base import Solver, real_dtype, rms, rounding
from eqprop.settle.leapfrog import drift
from eqprop.settle.retrace import hamiltonian_of, sharpness
from eqprop.settle.run import PathEquilibrium

__all__ = ["Echo"]


class Echo(Solver):
    """Runs a `Hamiltonian` system: the free phase forward, a nudged one as an echo from the free path's end.

    The path is stored, so any nudge and any estimator will do; memory grows with the run. `EchoPropagation` gives the
    same gradients without storing it. Nudges that depend on the path (the cost's own, at the replayed state) are
    iterated to self-consistency, within `rtol` of the displacement.

    A free phase is settled if its unnudged echo comes back to its start within `retrace` of its own size.
    """

    rtol: float = 1e-10
    max_steps: int = 30
    retrace: float = 1e-5

    def solve(self, system, inputs, start, *, free, key):
        del key
        base = hamiltonian_of(system)
        if free is None:
            return self._free(base, inputs)
        return self._nudged(system, base, inputs, free)

    def _free(self, base, inputs):
        begin = base.begin(inputs)
        path = _forward(base, inputs, begin)
        back = _backward(base, inputs, path, jnp.zeros_like(path.position))
        miss = rms((back.position[0] - begin[0], back.first - begin[1]))
        finite = jnp.isfinite(rms(path))
        drive = jax.tree.map(lambda leaf: leaf[0], base.drive(inputs))
        unstable = ~(sharpness(base, drive, *begin) < 2)
        result = RESULT.where(miss <= self.retrace * rms(path), RESULT.settled, RESULT.not_retraced)
        result = RESULT.where(finite, result, RESULT.diverged)
        result = RESULT.where(unstable, RESULT.unstable_step, result)
        return PathEquilibrium(path, result, miss, jnp.asarray(path.position.shape[0], jnp.int32))

    def _nudged(self, system, base, inputs, free):
        def push(path):
            return system.force(path).position

        def unfinished(loop):
            _, _, change, moved, steps = loop
            return (steps < self.max_steps) & ~(change <= self.rtol * moved + rounding(free.state))

        def again(loop):
            path, impulse, _, _, steps = loop
            new = _backward(base, inputs, free.state, impulse)
            change = rms(jax.tree.map(jnp.subtract, new, path))
            return new, push(new), change, rms(jax.tree.map(jnp.subtract, new, free.state)), steps + 1

        zero, infinite = (jnp.full((), value, real_dtype(free.state)) for value in (0.0, jnp.inf))
        loop = (free.state, push(free.state), infinite, zero, jnp.zeros((), jnp.int32))
        path, _, change, moved, steps = jax.lax.while_loop(unfinished, again, loop)
        done = change <= self.rtol * moved + rounding(free.state)
        unsettled = RESULT.where(jnp.isfinite(change), RESULT.max_steps_reached, RESULT.diverged)
        return PathEquilibrium(path, RESULT.where(done, RESULT.settled, unsettled), change, steps)


def _by_kick(base, inputs, points, dtype):
    drive = jax.tree.map(lambda leaf: jnp.repeat(leaf, base.substeps, axis=0), base.drive(inputs))
    return drive, jnp.asarray(base.step, dtype), kick_weights(points, base.step, dtype)


def _forward(base, inputs, begin):
    """The stored path of a free run."""
    position, momentum = begin
    points = base.length(inputs) * base.substeps
    drive, step, kicks = _by_kick(base, inputs, points, position.dtype)
    force = jax.grad(base.potential)
    after = momentum - kicks[0] * force(position, jax.tree.map(lambda leaf: leaf[0], drive))

    def advance(point, here):
        kick, drive = here
        (position, momentum), during = drift(base, point, step)
        return (position, momentum - kick * force(position, drive)), (position, during)

    later = jax.tree.map(lambda leaf: leaf[1:], (kicks, drive))
    (_, last), (positions, momenta) = jax.lax.scan(advance, (position, after), later)
    return PhasePath(jnp.concatenate([position[None], positions]), momenta, momentum, last)


def _backward(base, inputs, path, impulse):
    """The stored path of an echo from the end of `path`, `impulse` [point, coordinate] being added to the kicks."""
    points = path.position.shape[0]
    drive, step, kicks = _by_kick(base, inputs, points, path.position.dtype)
    impulse = impulse / fading(base, jnp.arange(1 - points, 1, dtype=impulse.dtype))[:, None]
    force = jax.grad(base.potential)

    def turn(position, turned, here):
        kick, push, drive = here
        return turned - kick * force(position, drive) + push

    def advance(point, here):
        (position, turned), during = drift(base, point, step, back=True)
        return (position, turn(position, turned, here)), (position, -during)

    here = jax.tree.map(lambda leaf: leaf[-1], (kicks, impulse, drive))
    start = (path.position[-1], turn(path.position[-1], -path.last, here))
    earlier = jax.tree.map(lambda leaf: leaf[:-1], (kicks, impulse, drive))
    (_, turned), (positions, momenta) = jax.lax.scan(advance, start, earlier, reverse=True)
    positions = jnp.concatenate([positions, path.position[-1:]])
    return PhasePath(positions, momenta, -turned, path.last)
