"""Regularisation learned by equilibrium propagation: ridge regression whose strengths are the parameters."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
import sklearn.datasets
from jaxtyping import Array, Float, PyTree
from pydantic import PositiveFloat, PositiveInt

from eqprop.cost import FunctionCost
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.newton import Newton
from eqprop.substrates.bilevel import InnerProblem, quadratic_pull
from eqprop.train.experiment import Experiment
from eqprop.train.recipes.base import Recipe

__all__ = ["HyperRidgeRecipe", "diabetes", "error_of", "mean_squared", "ridge"]

GRID = 801
"""Strengths that a report tries."""


class HyperRidgeRecipe(Recipe):
    """Ridge regression of diabetes progression (scikit-learn) on quadratic features; the outer cost is validation."""

    kind: Literal["hyper_ridge"] = "hyper_ridge"
    per_weight: bool = False
    """Whether each weight has its own strength of regularisation, or all one."""
    initial: float = 2.0
    """Logarithm of the strengths at the start."""
    beta: PositiveFloat = 0.1
    """Nudging strength."""
    train_examples: PositiveInt = 150
    """Rows the learner sees; the others are halved for validation and test."""

    def build(self, config, key):
        """The experiment."""
        del key
        train, validation, test = diabetes(config.seed, self.train_examples)
        weights = train[0].shape[-1]
        dtype = train[0].dtype
        strengths = jnp.full(weights if self.per_weight else 1, self.initial, dtype)
        system = InnerProblem(ridge, {"log_strength": strengths}, jnp.zeros(weights, dtype))
        return Experiment(
            system=system,
            cost=FunctionCost(mean_squared),
            propagate=EquilibriumPropagation(symmetric(self.beta), Newton(rtol=1e-6, atol=1e-6)),
            optimiser=config.optimiser.build(system, 1, config.epochs),
            train=(train, validation),
            test=(train, test),
        )

    def report_sections(self, run):
        """Validation and test error beside those of a fine grid of strengths."""
        from eqprop.train.report.regularisation import regularisation  # late: reports draw

        train, validation, test = diabetes(run.config.seed, self.train_examples)
        system = run.system
        assert isinstance(system, InnerProblem)
        learned = np.asarray(system.hyper["log_strength"], float)
        grid = np.linspace(-5, 5, GRID)
        parts = {"validation": validation, "test": test}
        reached = {name: error_of(learned, train, part) for name, part in parts.items()}
        found = {
            name: np.array([error_of(np.array([strength]), train, part) for strength in grid])
            for name, part in parts.items()
        }
        return [regularisation(learned, reached, grid, found)]


Rows = tuple[Float[Array, "row feature"], Float[Array, " row"]]
Task = tuple[Float[Array, "1 _row feature"], Float[Array, "1 _row"]]


def ridge(hyper: PyTree, weights: Float[Array, " feature"], data: Rows) -> Float[Array, ""]:
    """Half the mean squared error and the pull of each weight to zero."""
    strength = jnp.broadcast_to(hyper["log_strength"], weights.shape)
    return mean_squared(weights, data) + quadratic_pull(weights, jnp.zeros_like(weights), strength)


def mean_squared(weights: Float[Array, " feature"], data: Rows) -> Float[Array, ""]:
    """Half the mean squared error of a linear prediction."""
    features, wanted = data
    return 0.5 * jnp.mean((jnp.dot(features, weights) - wanted) ** 2)


def error_of(log_strength: Float[np.ndarray, " strength"], train: Task, other: Task) -> float:
    """Half the mean squared error on other rows of the weights that ridge regression has in closed form.

    Args:
        log_strength: Logarithms of the strengths, one for all weights or one for each.
        train: Rows that the weights are fitted to.
        other: Rows that they are judged by.
    """
    features, wanted = (np.asarray(part[0], float) for part in train)
    count, size = features.shape
    pull = np.diag(np.broadcast_to(np.exp(log_strength), size))
    weights = np.linalg.solve(features.T @ features / count + pull, features.T @ wanted / count)
    judged, answers = (np.asarray(part[0], float) for part in other)
    return float(0.5 * np.mean((judged @ weights - answers) ** 2))


def diabetes(seed: int, train: int) -> tuple[Task, Task, Task]:
    """Training, validation and test rows, each as a batch of one task; standardised by the training rows."""
    features, wanted = (np.asarray(part) for part in sklearn.datasets.load_diabetes(return_X_y=True))
    if not 10 <= train <= len(features) - 20:
        raise ValueError(f"`train_examples` must lie between 10 and {len(features) - 20}; got {train}.")
    first, second = np.triu_indices(features.shape[1])
    features = np.concatenate([features, features[:, first] * features[:, second]], axis=1)
    order = np.random.default_rng(seed).permutation(len(features))
    middle = train + (len(features) - train) // 2
    parts = [order[:train], order[train:middle], order[middle:]]
    centre, scale = features[parts[0]].mean(0), features[parts[0]].std(0)
    level, spread = wanted[parts[0]].mean(), wanted[parts[0]].std()
    dtype = jnp.zeros(()).dtype

    def standardised(rows):
        return (
            jnp.asarray((features[rows] - centre) / scale, dtype)[None],
            jnp.asarray((wanted[rows] - level) / spread, dtype)[None],
        )

    return standardised(parts[0]), standardised(parts[1]), standardised(parts[2])
