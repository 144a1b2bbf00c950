"""What the sections of a report look at: a run, its experiment with the trained system, its data."""

import functools
import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from eqprop.gradient.estimate import batch_size
from eqprop.settle.base import Solver
from eqprop.train.data import Dataset
from eqprop.train.evaluate import outputs_of
from eqprop.train.experiment import Experiment, example_of, load_data
from eqprop.train.report.section import LeftOut
from eqprop.train.run import Run

__all__ = ["Judged", "Study"]

JUDGING_SECONDS = 20.0
"""Time after which no further test examples are settled. [s]"""
JUDGED_TOGETHER = 500


class Judged(NamedTuple):
    """Scores of test examples."""

    scores: Float[np.ndarray, "example class"]
    settled: Bool[np.ndarray, " example"]
    labels: Int[np.ndarray, " example"]


class Study:
    """A run under study. What several sections need is found once."""

    def __init__(self, run: Run):
        self.run = run
        self.config = run.config

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The experiment, its system as trained."""
        return self.run.experiment()

    @functools.cached_property
    def data(self) -> Dataset:
        """The configured data as they are, before the recipe shapes them."""
        if self.config.data is None:
            raise LeftOut("the recipe makes its own data, not images of a data set")
        return load_data(self.config)

    @functools.cached_property
    def held_out(self) -> tuple[PyTree, PyTree]:
        """Test examples, or training ones where there are none."""
        experiment = self.experiment
        if experiment.test is not None:
            return experiment.test
        train = experiment.train
        return train if isinstance(train, tuple) else next(iter(train))

    def examples(self, count: int) -> tuple[PyTree, PyTree]:
        """The first few of the held-out examples."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:count], self.held_out)

    @functools.cached_property
    def units(self) -> int:
        """Numbers in one example's state."""
        inputs, _ = example_of(self.experiment)
        state = eqx.filter_eval_shape(self.experiment.system.initial_state, inputs)
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state))

    @functools.cached_property
    def parameters(self) -> int:
        """Numbers that were trained."""
        arrays = jax.tree.leaves(eqx.filter(self.experiment.system, eqx.is_inexact_array))
        return sum(leaf.size for leaf in arrays)

    def solver(self) -> Solver:
        """What settles free phases, if that is a program that can be run here.

        Raises:
            LeftOut: if it lives outside.
        """
        solver = self.experiment.solver
        if solver.host:
            raise LeftOut("the system lives outside this program (a simulator or a bench), which is not started here")
        return solver

    @functools.cached_property
    def picture_shape(self) -> tuple[int, int]:
        """Rows and columns of an input image.

        Raises:
            LeftOut: if inputs are no grey images.
        """
        shape = tuple(side for side in self.data.shape if side != 1)
        if len(shape) != 2 or min(shape) < 4:
            raise LeftOut(f"inputs of shape {list(self.data.shape)} are no grey images")
        return shape

    @functools.cached_property
    def judged(self) -> Judged:
        """Scores of the test examples, or of as many as can be settled in the time.

        Raises:
            LeftOut: if the experiment is no classification.
        """
        self.solver()
        experiment, propagate = self.experiment, self.experiment.propagate
        if experiment.wrong is None or experiment.test is None:
            raise LeftOut("nothing is classified, or there are no test examples")
        inputs, _ = experiment.test
        labels = self.data.test_targets
        total, began = batch_size(inputs), time.monotonic()
        if total != len(labels):
            raise LeftOut("the recipe's test examples are not those of the data set")
        scores, settled, done = [], [], 0
        key = jax.random.fold_in(self.config.training_key(), 1)
        while done < total and (not done or time.monotonic() - began < JUDGING_SECONDS):
            part = jax.tree.map(lambda leaf, at=done: leaf[at : at + JUDGED_TOGETHER], inputs)
            output, good = outputs_of(experiment.system, propagate, part, key=key, batch_size=JUDGED_TOGETHER)
            if not isinstance(output, np.ndarray) or output.ndim != 2 or output.shape[1] != self.data.classes:
                raise LeftOut("outputs are not one number for each class")
            scores.append(output)
            settled.append(good)
            done += len(good)
        return Judged(np.concatenate(scores), np.concatenate(settled), labels[:done])
