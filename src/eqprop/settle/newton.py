r"""Newton's method on $\partial E/\partial s = 0$: stationary points of any index, real or complex.

Bounded units that rest on a bound and are pushed against it are held (an active set, chosen anew each step).
Steps are damped on the norm of the residual, never on the energy: a saddle of the energy is as good as a minimum.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax as lx

from eqprop.equilibrium import RESULT
from eqprop.settle.base import IterativeSolver, rms
from eqprop.system import project

__all__ = ["Newton"]


class Newton(IterativeSolver):
    """Damped Newton iteration; the linear solves are lineax's.

    Needs the second derivative of the energy as a dense matrix: states up to a few thousand units.

    `residual` is the root mean square of the Newton step, hence the distance still to go to first order.
    """

    rtol: float = 1e-8
    atol: float = 1e-8
    max_steps: int = 100
    linear_solver: lx.AbstractLinearSolver = eqx.field(default_factory=lambda: lx.AutoLinearSolver(well_posed=True))
    max_halvings: int = 30

    non_finite: ClassVar[RESULT] = RESULT.singular

    def init(self, system, inputs, state, stats):
        return None

    def stats(self, carry):
        return {}

    def step(self, system, inputs, state, carry):
        flat, unravel = jax.flatten_util.ravel_pytree(state)
        is_complex = jnp.iscomplexobj(flat)

        @jax.jit  # so that it is traced once for all the places where it is called
        def slope(s):
            return jax.grad(lambda u: system.energy(unravel(u), inputs), holomorphic=is_complex)(s)

        def inside(s):
            return jax.flatten_util.ravel_pytree(project(system, unravel(s)))[0]

        def residual(s):
            """The projected gradient."""
            return slope(s) if system.bounds() is None else s - inside(s - slope(s))

        value = residual(flat)
        before = jnp.linalg.norm(value)
        hessian = jax.jacfwd(slope, holomorphic=is_complex)(flat)
        held = _held(system, unravel, flat, slope(flat))
        if held is not None:
            hessian = jnp.where(held[:, None] | held[None, :], jnp.eye(flat.size, dtype=flat.dtype), hessian)
            value = jnp.where(held, value, slope(flat))
        operator = lx.MatrixLinearOperator(hessian)
        direction = lx.linear_solve(operator, -value, self.linear_solver, throw=False).value

        def move(scale):
            stepped = inside(flat + scale * direction)
            return stepped, jnp.linalg.norm(residual(stepped))

        def worse(trial):
            _scale, _, after, halvings = trial
            # A step at the rounding floor need not decrease anything further.
            return ~(after < before) & (halvings < self.max_halvings) & (before > 0)

        def halve(trial):
            scale, _, _, halvings = trial
            return (0.5 * scale, *move(0.5 * scale), halvings + 1)

        whole = jnp.ones((), before.dtype)
        first, first_norm = move(whole)
        _scale, stepped, after, _ = jax.lax.while_loop(worse, halve, (whole, first, first_norm, 0))
        kept = jnp.where(after < before, stepped, flat)
        kept = jnp.where(jnp.all(jnp.isfinite(direction)), kept, jnp.full_like(flat, jnp.nan))
        return unravel(kept), rms(direction), carry


def _held(system, unravel, flat, slope):
    """Units on a bound that the gradient pushes outward, flat; None where there are no bounds."""
    bounds = system.bounds()
    if bounds is None:
        return None

    def pinned(s, g, low, high):
        return jnp.broadcast_to(((s <= low) & (g >= 0)) | ((s >= high) & (g <= 0)), s.shape)

    return jax.flatten_util.ravel_pytree(jax.tree.map(pinned, unravel(flat), unravel(slope), *bounds))[0]
