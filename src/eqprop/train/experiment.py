"""An experiment: everything that training needs, whatever the physics."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PyTree

from eqprop.cost import Cost
from eqprop.gradient.estimate import Estimator
from eqprop.settle.base import Solver
from eqprop.system import System

if TYPE_CHECKING:
    from eqprop.train.config import Config

__all__ = ["Experiment", "classification", "wrong_class"]


class Experiment(eqx.Module):
    """A system to train, what for, how, and on what."""

    system: System
    cost: Cost
    propagate: Estimator
    optimiser: optax.GradientTransformation
    train: tuple[PyTree, PyTree] | Iterable
    """Inputs and targets, leading axis the example; or an iterable of such batches, gone through once an epoch."""
    test: tuple[PyTree, PyTree] | None = None
    """Inputs and targets that are never trained on."""
    wrong: Callable[[PyTree, PyTree], Bool[Array, ""]] | None = eqx.field(static=True, default=None)
    """Of (output, targets) of one example: whether it counts as an error. None where there is no such thing."""
    prepare: Callable[[PyTree], PyTree] | None = None
    """What is done to inputs as the data has them before the system sees them, in `train` and `test` done already. None
    where that is nothing."""
    devices: int = eqx.field(static=True, default=1)
    """How many of JAX's devices may share a batch."""

    def __check_init__(self):
        if self.devices < 1 or (self.devices > 1 and self.host):
            raise ValueError(
                f"`devices` must be at least 1, and 1 for a system outside JAX, which is one; got {self.devices}."
            )

    @property
    def solver(self) -> Solver:
        """What settles free phases."""
        return self.propagate.solver

    @property
    def host(self) -> bool:
        """Whether the system lives outside JAX (a bench, a simulator process), so that nothing may be traced."""
        return self.solver.host

    @property
    def resident(self) -> bool:
        """Whether the training data are arrays in memory."""
        return isinstance(self.train, tuple)


def wrong_class(output: PyTree, targets: PyTree) -> Bool[Array, ""]:
    """Whether the largest output is not the wanted one; targets one-hot or a class number."""
    wanted = targets if jnp.issubdtype(targets.dtype, jnp.integer) else jnp.argmax(targets)
    return jnp.argmax(output).astype(wanted.dtype) != wanted


def classification(
    config: "Config",
    system: System,
    cost: Cost,
    propagate: Estimator,
    *,
    one_hot: bool,
    flatten: bool = True,
    devices: int = 1,
) -> Experiment:
    """The experiment of classifying the configured data.

    Args:
        config: Names data, optimiser, epochs and batch size.
        system: Its output has one number for each class.
        cost: Of output and targets.
        propagate: The estimator.
        one_hot: Whether the cost takes one-hot targets (squared error), or class numbers (cross-entropy).
        flatten: Whether an example's inputs are one vector.
        devices: How many of JAX's devices may share a batch.
    """
    data = load_data(config)
    dtype = jnp.zeros(()).dtype

    def pair(inputs, labels):
        inputs = inputs.reshape(len(inputs), -1) if flatten else inputs
        targets = np.eye(data.classes)[labels].astype(dtype) if one_hot else labels.astype(np.int32)
        return jnp.asarray(inputs, dtype), jnp.asarray(targets)

    train = pair(data.train_inputs, data.train_targets)
    steps = max(len(data.train_inputs) // config.batch_size, 1)
    return Experiment(
        system=system,
        cost=cost,
        propagate=propagate,
        optimiser=config.optimiser.build(system, steps, config.epochs),
        train=train,
        test=pair(data.test_inputs, data.test_targets),
        wrong=wrong_class,
        devices=devices,
    )


def load_data(config: "Config"):
    """The configured data: a held-out part of the training set in place of the test set, cut to size."""
    from eqprop.train.data import Dataset, load
    from eqprop.train.data.split import stratified_split

    if config.data is None:
        raise ValueError('`data` is missing from the configuration; name a set: `[data]`, `name = "digits"`.')
    data = load(config.data.name)
    if config.data.held_out is not None:
        kept, judged = stratified_split(data.train_targets, config.data.held_out, seed=config.data.split)
        data = Dataset(
            train_inputs=data.train_inputs[kept],
            train_targets=data.train_targets[kept],
            test_inputs=data.train_inputs[judged],
            test_targets=data.train_targets[judged],
            classes=data.classes,
            shape=data.shape,
        )
    train, test = config.data.train_examples, config.data.test_examples
    if train is None and test is None:
        return data
    return Dataset(
        train_inputs=data.train_inputs[:train],
        train_targets=data.train_targets[:train],
        test_inputs=data.test_inputs[:test],
        test_targets=data.test_targets[:test],
        classes=data.classes,
        shape=data.shape,
    )


def example_of(experiment: Experiment) -> tuple[PyTree, PyTree]:
    """Inputs and targets of the first training example."""
    batch = experiment.train if experiment.resident else next(iter(experiment.train))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], batch)
