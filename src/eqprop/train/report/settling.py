r"""How phases settle: the residual after each step of the solver, free and nudged, example by example.

The solver's own loop keeps only its last state. Here its `step` is scanned, the residual kept each time, and the trace
ends where the loop would have ended.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from eqprop.equilibrium import AbstractEquilibrium, Equilibrium
from eqprop.gradient.estimate import batch_size, free_phase
from eqprop.gradient.one_phase import OnePhase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.settle.base import IterativeSolver, Solver
from eqprop.settle.sample import Enumeration, Sampler
from eqprop.system import System, project
from eqprop.train.report.figure import MUTED, SERIES, log_axis, panel
from eqprop.train.report.sampling import sampled_settling
from eqprop.train.report.section import LeftOut, Picture, Section
from eqprop.train.report.study import Study

__all__ = ["Trace", "free_equilibria", "settling", "trace"]

EXAMPLES = 4
LONGEST = 300
"""Steps shown at most."""


class Trace(NamedTuple):
    """One example's way to rest; NaN after its end."""

    residual: Float[np.ndarray, " step"]
    tolerance: Float[np.ndarray, " step"]
    outputs: PyTree
    """The outputs after each step."""


def settling(study: Study) -> Section:
    """Residual against step for a few held-out examples, in the free and in a nudged phase."""
    solver, experiment = study.solver(), study.experiment
    if isinstance(solver, Sampler | Enumeration):
        return sampled_settling(study)
    if not isinstance(solver, IterativeSolver):
        raise LeftOut(f"`{type(solver).__name__}` does not settle step by step")
    system = experiment.system
    inputs, targets = study.examples(EXAMPLES)
    if isinstance(experiment.propagate, OnePhase):
        return Section("How phases settle", _only_text(solver), (_only_phase(experiment, solver, inputs, targets),))
    free = free_equilibria(system, solver, inputs)
    if not isinstance(free, Equilibrium):
        raise LeftOut(f"its equilibria are not points but of the kind `{type(free).__name__}`")
    traces = _traces(solver, lambda x: (system, x, system.initial_state(x), None), inputs)
    pictures = [_picture(traces, "free", "Free phase", "")]
    propagate = experiment.propagate
    if isinstance(propagate, EquilibriumPropagation):
        nudged_solver = propagate.solver if propagate.nudged_solver is None else propagate.nudged_solver
        nodes = propagate.stencil.draw(jax.random.key(0)).nodes
        beta = nodes[np.argmax(np.real(np.asarray(nodes)))]

        def begin(x, y, eq):
            strength = beta.astype(jnp.result_type(*jax.tree.leaves(_like(eq.state, beta))))
            return propagate.nudge(system, experiment.cost, y, eq, strength), x, _like(eq.state, beta), eq

        if isinstance(nudged_solver, IterativeSolver):
            traces = _traces(nudged_solver, begin, inputs, targets, free)
            pictures.append(
                _picture(traces, "nudged", f"Nudged phase, β = {_number(beta)}", "Starts at the free state.")
            )
    text = (
        f"`{type(solver).__name__}` on the first {len(np.asarray(free.steps))} held-out examples, in the precision of "
        "this report. The residual is how far from rest the solver believes the state to be; after a step that shrank "
        "little it believes rest to be far away, hence peaks. A free "
        "phase must reach a fraction of the state's own size, a nudged phase a fraction of its displacement from the "
        "free state: only that is learned from. The dashed line is the mean of these tolerances at the end."
    )
    return Section("How phases settle", text, tuple(pictures))


def _only_text(solver):
    return (
        f"`{type(solver).__name__}` on the first {EXAMPLES} held-out examples: the one phase there is, nudged from the "
        "start. Mean and difference of the two copies are judged each by its own size, and the residual is the worse "
        "of them; steps after which nothing moves at all are not drawn. The dashed line is the tolerance."
    )


def _only_phase(experiment, solver, inputs, targets):
    system, propagate = experiment.system, experiment.propagate
    assert isinstance(propagate, OnePhase)

    def begin(x, y):
        start = system.initial_state(x)
        beta = propagate.beta.astype(jax.tree.leaves(start)[0].dtype)
        return propagate.nudge(system, experiment.cost, y, None, beta), x, start, None

    traces = _traces(solver, begin, inputs, targets)
    return _picture(traces, "nudged", f"The one phase, β = {_number(propagate.beta)}", "")


def trace(
    system: System,
    solver: IterativeSolver,
    inputs: PyTree,
    *,
    length: int,
    start: PyTree | None = None,
    free: AbstractEquilibrium | None = None,
) -> Trace:
    """Settle one example and keep what each step left.

    Args:
        system: The system, free or nudged.
        solver: Whose steps are taken.
        inputs: Of the example.
        length: Number of steps.
        start: Where to begin; as `settle` by default.
        free: The free equilibrium, for a nudged phase.
    """
    if start is None:
        start = system.initial_state(inputs) if free is None else free.restart
    start = project(system, start)

    def advance(loop, _):
        state, carry, done = loop
        moved, residual, carry = solver.step(system, inputs, state, carry)
        tolerance = solver.tolerance(moved, free)
        shown = jnp.where(done, jnp.nan, jnp.stack([residual, tolerance]))
        state = jax.tree.map(lambda new, old: jnp.where(done, old, new), moved, state)
        finished = done | (jnp.isfinite(residual) & (residual <= tolerance))
        return (state, carry, finished), (shown[0], shown[1], system.output(state))

    stats = free.stats if isinstance(free, Equilibrium) else {}
    loop = (start, solver.init(system, inputs, start, stats), jnp.zeros((), bool))
    return Trace(*jax.lax.scan(advance, loop, length=length)[1])


def _traces(solver, begin, *batch):
    """Traces of a batch of examples; `begin` makes of each its system, inputs, start and free equilibrium."""

    def steps(*example):
        system, x, start, free = begin(*example)
        return solver.solve(system, x, start, free=free, key=None).steps

    def way(*example):
        system, x, start, free = begin(*example)
        return trace(system, solver, x, length=length, start=start, free=free)

    # Complex nudges meet real parameters.
    with jax.numpy_dtype_promotion("standard"):
        taken = np.asarray(eqx.filter_jit(jax.vmap(steps))(*batch))
        length = int(np.clip(np.max(taken), 1, LONGEST))
        return eqx.filter_jit(jax.vmap(way))(*batch)


def free_equilibria(system: System, solver: Solver, inputs: PyTree) -> AbstractEquilibrium:
    """The free equilibria of a batch."""
    keys = jax.random.split(jax.random.key(0), batch_size(inputs))
    return eqx.filter_jit(free_phase)(system, solver, inputs, None, keys)


def _like(state, beta):
    """The state, complex where the nudge is."""
    if not jnp.iscomplexobj(beta):
        return state
    return jax.tree.map(lambda s: s.astype(np.result_type(s.dtype, np.complex64)), state)


def _number(beta):
    value = complex(beta)
    return f"{value.real:.3g}".replace("-", "−") if value.imag == 0 else f"{value.real:.3g} + {value.imag:.3g} i"


def _picture(traces, name, title, caption):
    residuals, tolerances = (np.asarray(values) for values in traces[:2])
    lengths = np.sum(np.isfinite(residuals), axis=1)
    ends = [row[max(n - 1, 0)] for row, n in zip(tolerances, lengths, strict=True)]

    def draw(axes):
        for index, row in enumerate(residuals):
            steps = np.arange(1, len(row) + 1)
            axes.plot(steps, row, color=SERIES[index % len(SERIES)], marker="o", markersize=2.5, label=f"{index}")
        axes.axhline(float(np.mean(ends)), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        log_axis(axes, "y")
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel("residual")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(title="example", title_fontsize=8, ncols=2)

    describe = f"{title}: residual against step; the examples took {', '.join(map(str, lengths))} steps."
    return Picture(panel(draw, name=f"settling-{name}", describe=describe), caption)
