"""Settings that recipes share: strict models, from which stencils, nudges and solvers are built."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import RandomSign, Stencil, holomorphic, one_sided, random_sign, richardson, symmetric
from eqprop.settle.base import IterativeSolver, Solver
from eqprop.settle.descent import BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.newton import Newton
from eqprop.system import CostNudged, Forced

__all__ = ["DataSettings", "EstimatorSettings", "Settings", "SolverSettings", "ThroughTimeSettings"]


class Settings(BaseModel):
    """A group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """Which data, and how much of it."""

    name: str
    """A set that `eqprop doctor` lists, or the path of a .npz file."""
    train_examples: PositiveInt | None = None
    """Use only the first so many training examples."""
    test_examples: PositiveInt | None = None
    """Use only the first so many test examples."""
    held_out: PositiveInt | None = None
    """Judge on so many examples held out of the training set, never on the test set: for choosing settings."""
    split: NonNegativeInt = 0
    """Which of the possible ways to hold them out."""


class _Iterative(Settings):
    rtol: PositiveFloat = 1e-5
    atol: PositiveFloat = 1e-7


class BlockDescentSettings(_Iterative):
    """Exact minimisation of one block after the other."""

    kind: Literal["block_descent"] = "block_descent"
    max_steps: PositiveInt = 500
    relaxation: float | None = None

    def build(self) -> Solver:
        """The solver."""
        return BlockDescent(self.rtol, self.atol, self.max_steps, self.relaxation)


class FixedPointSettings(_Iterative):
    """Synchronous iteration."""

    kind: Literal["fixed_point"]
    max_steps: PositiveInt = 1_000
    relaxation: float = 1.0

    def build(self) -> Solver:
        """The solver."""
        return FixedPoint(self.rtol, self.atol, self.max_steps, self.relaxation)


class GradientFlowSettings(_Iterative):
    """Euler steps of the gradient flow."""

    kind: Literal["gradient_flow"]
    max_steps: PositiveInt = 2_000
    step_size: PositiveFloat = 0.5

    def build(self) -> Solver:
        """The solver."""
        return GradientFlow(self.step_size, self.rtol, self.atol, self.max_steps)


class NewtonSettings(_Iterative):
    """Damped Newton iteration."""

    kind: Literal["newton"]
    max_steps: PositiveInt = 100

    def build(self) -> Solver:
        """The solver."""
        return Newton(self.rtol, self.atol, self.max_steps)


SolverSettings = Annotated[
    BlockDescentSettings | FixedPointSettings | GradientFlowSettings | NewtonSettings,
    Field(discriminator="kind"),
    BeforeValidator(lambda given: {"kind": "block_descent", **given} if isinstance(given, dict) else given),
]
"""One of the solvers that any recipe may take."""


class EstimatorSettings(Settings):
    """Equilibrium propagation: the difference rule, the nudge, the solvers."""

    beta: float = 0.02
    """Nudging strength."""
    stencil: Literal["symmetric", "one_sided", "random_sign", "richardson", "holomorphic"] = "symmetric"
    nudge: Literal["forced", "cost"] = "forced"
    solver: SolverSettings = BlockDescentSettings()
    """Of the free phase."""
    nudged_solver: SolverSettings | None = None
    """Of the nudged phases; as the free one by default, with `rtol` relative to the displacement."""
    chunk: PositiveInt | None = None
    """How many examples settle together; the whole batch by default."""

    def build(self) -> EquilibriumPropagation:
        """The estimator."""
        rules = {
            "symmetric": symmetric,
            "one_sided": one_sided,
            "random_sign": random_sign,
            "richardson": richardson,
            "holomorphic": holomorphic,
        }
        rule: Stencil | RandomSign = rules[self.stencil](self.beta)
        nudge = Forced if self.nudge == "forced" else CostNudged
        nudged = None if self.nudged_solver is None else self.nudged_solver.build()
        return EquilibriumPropagation(rule, self.solver.build(), nudge, nudged, self.chunk)


class ThroughTimeSettings(Settings):
    """Backpropagation through time, through the steps of the free phase's solver: the baseline."""

    steps: PositiveInt = 30
    """Steps from the initial state to the state that is judged."""
    truncation: PositiveInt | None = None
    """How many of the last steps are differentiated; all by default."""

    def build(self, estimator: EstimatorSettings) -> BackpropagationThroughTime:
        """The estimator, in place of `estimator`, whose solver makes the steps."""
        solver = estimator.solver.build()
        if not isinstance(solver, IterativeSolver):
            raise ValueError(
                f"`recipe.through_time` needs a solver that makes steps; `recipe.estimator.solver` is "
                f"{type(solver).__name__}. Take `block_descent` or `fixed_point`."
            )
        return BackpropagationThroughTime(solver, self.steps, self.truncation)
