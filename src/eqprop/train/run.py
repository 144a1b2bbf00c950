"""Run folders: a training that can be stopped at any moment, continued to the last bit, and used afterwards.

config.toml             the resolved configuration, with versions and seed
metrics.jsonl           one line per epoch
checkpoint.safetensors  weights under their names, optimiser, key, position
"""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eqprop.system import System
from eqprop.train import checkpoint
from eqprop.train.checkpoint import CheckpointError
from eqprop.train.config import Config, ConfigError, load_config, to_toml, versions
from eqprop.train.evaluate import outputs_of
from eqprop.train.experiment import Experiment
from eqprop.train.fit import Moment, TrainState, start, training

__all__ = ["Outcome", "Run", "continue_run", "load", "new_run"]

CONFIG, METRICS, CHECKPOINT = "config.toml", "metrics.jsonl", "checkpoint.safetensors"
S = TypeVar("S", bound=System)
_REST = ("optimiser", "key", "epoch", "step", "sums", "finite")


class Outcome(NamedTuple):
    """How training a run ended."""

    run: "Run"
    finished: bool
    """False if it was asked to stop; it is saved and can be continued."""


class Run:
    """A run folder, read-only: what was trained, with what, how well."""

    def __init__(self, folder: str | Path):
        """Open a run folder.

        Args:
            folder: As printed by `eqprop train`.

        Raises:
            ConfigError: if it is no run folder.
        """
        self.folder = Path(folder)
        if not (self.folder / CONFIG).exists():
            near = [path.parent.name for path in self.folder.parent.glob(f"*/{CONFIG}")]
            hint = f" There are: {', '.join(sorted(near))}." if near else ""
            raise ConfigError(f"{self.folder} is no run folder: it holds no {CONFIG}.{hint}")
        self.config: Config = load_config(self.folder / CONFIG)

    @property
    def metrics(self) -> list[dict[str, float | int]]:
        """The measures of each epoch."""
        return _read_metrics(self.folder / METRICS)

    @property
    def epochs_done(self) -> int:
        """Epochs that the checkpoint has behind it."""
        return checkpoint.read(self.folder / CHECKPOINT)[1]["epoch"]

    @property
    def system(self) -> System:
        """The system as trained."""
        return self.experiment().system

    def experiment(self) -> Experiment:
        """The experiment, its system as trained; in the precision that JAX is set to now."""
        experiment = self.config.build()
        return eqx.tree_at(lambda e: e.system, experiment, self.trained(experiment.system))

    def trained(self, system: S) -> S:
        """A system with the trained parameters in the place of its own, which have the same names and shapes."""
        arrays, _ = checkpoint.read(self.folder / CHECKPOINT)
        parameters, rest = eqx.partition(system, eqx.is_inexact_array)
        return eqx.combine(checkpoint.fill(parameters, arrays, cast=True), rest)

    def predict(self, inputs: PyTree) -> PyTree:
        """Outputs (scores, one for each class) for many examples.

        Args:
            inputs: Leading axis the example; images may have their own axes, bytes are scaled to [0, 1].

        Raises:
            ValueError: if an example is not of the size trained on, or holds NaN.
            RuntimeError: if an example does not settle.
        """
        experiment = self.experiment()
        train = experiment.train
        like = train[0] if isinstance(train, tuple) else next(iter(train))[0]
        fitted = jax.tree.map(_fitted, inputs, like)
        if experiment.prepare is not None:
            fitted = experiment.prepare(fitted)
        key = jax.random.fold_in(self.config.training_key(), 1)
        outputs, settled = outputs_of(experiment.system, experiment.propagate, fitted, key=key)
        if not settled.all():
            raise RuntimeError(
                f"{int((~settled).sum())} of {settled.size} examples did not settle, first example "
                f"{int(np.argmin(settled))}. "
                "Raise the solver's `max_steps`, or check that the inputs are scaled as in training."
            )
        return outputs


def load(folder: str | Path) -> Run:
    """Open a run folder: `load("runs/digits-...").predict(images)`."""
    return Run(folder)


def new_run(config: Config, out: str | Path = "runs") -> Path:
    """Make the folder of a new run, with its resolved configuration.

    Args:
        config: The configuration.
        out: Folder of run folders.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        folder = Path(out) / f"{config.name}-{stamp}-seed{config.seed}{f'-{attempt}' if attempt else ''}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(
                f"Cannot make the run folder {folder}: {error.strerror}. Choose another with `--out`."
            ) from error
    else:
        raise CheckpointError(f"Cannot find a free name for a run folder in {out}.")
    resolved = config.model_copy(update={"versions": versions()})
    checkpoint.write_bytes(folder / CONFIG, to_toml(resolved).encode())
    return folder


def continue_run(
    folder: Path,
    *,
    experiment: Experiment | None = None,
    watch: Callable[[Moment], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train a run to its end, from its checkpoint if it has one, else from the start.

    Args:
        folder: The run folder.
        experiment: The run's experiment with its system freshly drawn, if it is at hand.
        watch: Called between chunks of steps and after each epoch.
        stop: Asked between chunks; if true, the run is saved and left.

    Raises:
        TrainingError: if training fails; the last checkpoint stays.
        CheckpointError: if the checkpoint cannot be read or written.
        ConfigError: if JAX is set to another precision than the run's.
    """
    run = Run(folder)
    config = run.config
    check_precision(config)
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink()
    experiment = config.build() if experiment is None else experiment
    state = _restored(start(experiment, config.training_key()), folder)
    _cut_metrics(folder / METRICS, int(state.epoch))
    saved = time.monotonic()
    moments = training(
        experiment, state, epochs=config.epochs, batch_size=config.batch_size, max_unsettled=config.max_unsettled
    )
    stopped = False
    for moment in moments:
        if moment.metrics is not None:
            _append(folder / METRICS, json.dumps(moment.metrics) + "\n")
        stopped = stop is not None and stop()
        last = moment.metrics is not None and moment.epoch + 1 == config.epochs
        if stopped or last or time.monotonic() - saved >= config.checkpoint_seconds:
            _save(moment.state, folder)
            saved = time.monotonic()
        if watch is not None:
            watch(moment)
        if stopped:
            break
    return Outcome(run, run.epochs_done >= config.epochs)


def check_precision(config: Config) -> None:
    """Raise ConfigError unless JAX computes in the configured precision."""
    wide = jax.config.read("jax_enable_x64")
    if wide != (config.precision == "float64"):
        switch = "on" if config.precision == "float64" else "off"
        raise ConfigError(
            f'The configuration asks for `precision = "{config.precision}"` but JAX computes in '
            f'{"float64" if wide else "float32"}. Switch it {switch} first: `jax.config.update("jax_enable_x64", '
            f"{config.precision == 'float64'})`."
        )


def _save(state: TrainState, folder: Path) -> None:
    arrays = checkpoint.named_arrays(eqx.filter(state.system, eqx.is_inexact_array))
    for part in _REST:
        arrays |= checkpoint.named_arrays(getattr(state, part), f"{part}." if part in ("optimiser", "sums") else part)
    header = {"epoch": int(state.epoch), "step": int(state.step)}
    checkpoint.write(folder / CHECKPOINT, arrays, header)


def _restored(state: TrainState, folder: Path) -> TrainState:
    if not (folder / CHECKPOINT).exists():
        return state
    arrays, _ = checkpoint.read(folder / CHECKPOINT)
    parameters, rest = eqx.partition(state.system, eqx.is_inexact_array)
    parts = {
        part: checkpoint.fill(getattr(state, part), arrays, f"{part}." if part in ("optimiser", "sums") else part)
        for part in _REST
    }
    return TrainState(system=eqx.combine(checkpoint.fill(parameters, arrays), rest), **parts)


def _read_metrics(path):
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A line without its end was being written when the process died.
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _cut_metrics(path, epochs):
    """Keep the lines that the checkpoint knows of; what was measured after it will be measured again."""
    kept = [row for row in _read_metrics(path) if row["epoch"] <= epochs]
    checkpoint.write_bytes(path, "".join(json.dumps(row) + "\n" for row in kept).encode())


def _append(path, line):
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(
            f"Cannot write {path}: {error.strerror}. The checkpoint written before is intact. Make room, then continue "
            "with `eqprop train --resume`."
        ) from error


def _fitted(given, like):
    """Inputs in the shape and type of those trained on."""
    given = np.asarray(given)
    shape = like.shape[1:]
    if given.ndim == 0 or given[:1].size != int(np.prod(shape)) or len(given) == 0:
        raise ValueError(
            f"`inputs` of shape {given.shape} do not fit: each example must have {int(np.prod(shape))} "
            f"numbers, leading "
            "axis the example (for a single one add an axis: `inputs[None]`)."
        )
    scaled = given / 255 if given.dtype == np.uint8 else given
    if not np.isfinite(scaled).all():
        raise ValueError(
            f"`inputs` hold NaN or infinity, first in example {int(np.argwhere(~np.isfinite(scaled))[0][0])}."
        )
    return jnp.asarray(scaled.reshape(len(given), *shape), like.dtype)
