r"""Updates: optax transformations built from settings.

The chain is: clip the whole gradient's norm, add weight decay, the rule (plain, momentum, Adam), a rate for each
parameter times the schedule, and last the projection into bounds. Rates live in the optimiser's state as arrays, so
that another rate compiles nothing anew.

Source:
    D. Kingma and J. Ba, Adam: a method for stochastic optimization, 2015.
"""

import fnmatch
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree
from pydantic import Field, NonNegativeFloat, PositiveFloat

from eqprop.system import System
from eqprop.train.checkpoint import leaf_name
from eqprop.train.settings import Settings

__all__ = ["OptimiserSettings", "ScheduleSettings", "bounded", "non_negative", "parameters_of", "scale_by_rates"]


class ScheduleSettings(Settings):
    """How the learning rates change from epoch to epoch."""

    kind: Literal["constant", "exponential", "cosine"] = "constant"
    factor: PositiveFloat = 0.95
    """Exponential: each epoch's rate over that of the one before."""
    final: NonNegativeFloat = 0.0
    """Cosine: last rate over first."""

    def build(self, steps_per_epoch: int, epochs: int) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
        """The factor on the learning rates as a function of the number of updates made."""

        def factor(count):
            if self.kind == "exponential":
                return jnp.power(self.factor, (count // steps_per_epoch).astype(float))
            if self.kind == "cosine":
                done = jnp.minimum(count / (steps_per_epoch * epochs), 1.0)
                return self.final + (1 - self.final) * 0.5 * (1 + jnp.cos(jnp.pi * done))
            return jnp.ones(())

        return factor


class OptimiserSettings(Settings):
    """What is done with a gradient."""

    kind: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: NonNegativeFloat = 0.1
    rates: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Learning rates of single parameters, by name or pattern: `{"weights.0" = 0.1, "biases.*" = 0.05}`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `momentum`; of `adam`, the decay of the first moment."""
    second_moment: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam: decay of the second moment."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of a whole gradient."""
    weight_decay: NonNegativeFloat = 0.0
    """Added to the gradient for each unit of a parameter, before the rule."""
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Bounds of parameters, by name or pattern: `{"conductance" = [0.0, inf]}`."""
    schedule: ScheduleSettings = ScheduleSettings()

    def build(self, system: System, steps_per_epoch: int, epochs: int) -> optax.GradientTransformation:
        """The transformation for this system's parameters.

        Raises:
            ValueError: if a name in `rates` or `bounds` fits no parameter.
        """
        names = list(parameters_of(system))
        for option in ("rates", "bounds"):
            for pattern in getattr(self, option):
                if not fnmatch.filter(names, pattern):
                    raise ValueError(
                        f"`optimiser.{option}` names `{pattern}`, which fits no parameter. There are: "
                        f"{', '.join(names)}."
                    )
        rules = {
            "sgd": optax.identity,
            "momentum": lambda: optax.trace(self.momentum),
            "adam": lambda: optax.scale_by_adam(self.momentum, self.second_moment),
        }
        steps = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        steps += [] if self.weight_decay == 0 else [optax.add_decayed_weights(self.weight_decay)]
        steps += [rules[self.kind](), scale_by_rates(self._rate, self.schedule.build(steps_per_epoch, epochs))]
        steps += [bounded(low, high, pattern) for pattern, (low, high) in self.bounds.items()]
        return optax.chain(*steps)

    def _rate(self, name: str) -> float:
        fitting = [rate for pattern, rate in self.rates.items() if fnmatch.fnmatchcase(name, pattern)]
        return fitting[-1] if fitting else self.learning_rate


class RatesState(NamedTuple):
    """Updates made so far, and the learning rate of each parameter."""

    count: Int[Array, ""]
    rates: PyTree


def scale_by_rates(
    rate: Callable[[str], float],
    factor: Callable[[Int[Array, ""]], Float[Array, ""]],
) -> optax.GradientTransformation:
    """Multiply each parameter's update by minus its own learning rate times the schedule's factor.

    Args:
        rate: Learning rate of a parameter, by its name (`weights.0`).
        factor: Of the number of updates made so far.
    """

    def init(parameters):
        def own(path, leaf):
            return jnp.asarray(rate(leaf_name(path)), jnp.zeros((), leaf.dtype).real.dtype)

        return RatesState(jnp.zeros((), jnp.int32), jax.tree_util.tree_map_with_path(own, parameters))

    def update(updates, state, parameters=None):
        del parameters
        now = factor(state.count)
        scaled = jax.tree.map(lambda u, r: -(r * now.astype(r.dtype)) * u, updates, state.rates)
        return scaled, RatesState(state.count + 1, state.rates)

    return optax.GradientTransformation(init, update)


def bounded(lower: float, upper: float, pattern: str = "*") -> optax.GradientTransformation:
    """Cut updates short where they would carry a parameter out of its bounds; last in a chain.

    Args:
        lower: Lower bound, in the parameter's unit.
        upper: Upper bound.
        pattern: Which parameters, by name: `*` for all, `conductance.*`.
    """
    if not lower < upper:
        raise ValueError(f"`lower` = {lower} must be less than `upper` = {upper}.")

    def update(updates, state, parameters=None):
        if parameters is None:
            raise ValueError("`bounded` needs the parameters: call `optimiser.update(updates, state, parameters)`.")

        def cut(path, change, value):
            if not fnmatch.fnmatchcase(leaf_name(path), pattern):
                return change
            return jnp.clip(value + change, lower, upper) - value

        return jax.tree_util.tree_map_with_path(cut, updates, parameters), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def non_negative(pattern: str = "*") -> optax.GradientTransformation:
    """Keep parameters (conductances, stiffnesses) at zero or above; last in a chain."""
    return bounded(0.0, float("inf"), pattern)


def parameters_of(system: System) -> dict[str, Array]:
    """A system's parameters by name: `weights.0`, `biases.1`, ..."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(system, eqx.is_inexact_array))
    return {leaf_name(path): leaf for path, leaf in leaves}
