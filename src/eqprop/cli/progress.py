"""Progress of training: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from eqprop.train.fit import Moment

__all__ = ["TrainingProgress", "epoch_line"]

LINE_SECONDS = 10.0
"""Without a terminal: time between two lines within an epoch. [s]"""


class TrainingProgress:
    """Shows moments of training as they come."""

    def __init__(self, epochs: int, batch_size: int, *, done: int = 0):
        """Begin.

        Args:
            epochs: In the whole run.
            batch_size: Examples per step.
            done: Epochs already behind.
        """
        self.epochs = epochs
        self.batch_size = batch_size
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = None
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[pace]}"),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("compiling", total=None, pace="")
        self.first = None
        self.line_at = time.monotonic()
        self.begun_at = done

    def __enter__(self) -> "TrainingProgress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, moment: "Moment") -> None:
        """Show a moment."""
        now = time.monotonic()
        if moment.metrics is not None:
            self.console.print(epoch_line(moment.metrics, self.epochs))
            self.line_at = now
        if moment.steps is None:
            return
        done = moment.epoch * moment.steps + moment.step
        if self.first is None:
            # Counted from the first moment on, because compilation lies before it.
            self.first = (now, done)
        elapsed, steps = now - self.first[0], done - self.first[1]
        rate = steps / elapsed if elapsed > 0 else 0.0
        remaining = (self.epochs * moment.steps - done) / rate if rate > 0 else None
        pace = "" if remaining is None else f"{rate * self.batch_size:,.0f} examples/s, {_clock(remaining)} left"
        if self.bar is not None:
            label = f"epoch {min(moment.epoch + 1, self.epochs)}/{self.epochs}"
            self.bar.update(self.task, description=label, total=self.epochs * moment.steps, completed=done, pace=pace)
        elif moment.metrics is None and now - self.line_at >= LINE_SECONDS:
            reached = f"epoch {moment.epoch + 1}/{self.epochs}: step {moment.step} of {moment.steps}"
            self.console.print(f"{reached}, {pace}" if pace else reached)
            self.line_at = now


def epoch_line(metrics: dict[str, float | int], epochs: int) -> str:
    """One epoch in one line."""
    parts = [f"epoch {metrics['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name, label in (("train_error", "train error"), ("test_error", "test error")):
        if name in metrics:
            parts.append(f"{label} {100 * metrics[name]:5.2f} %")
    parts.append(f"cost {metrics.get('test_cost', metrics['train_cost']):.4f}")
    parts.append(f"steps {metrics['free_steps']:.1f} + {metrics['nudged_steps']:.1f}")
    for name, label in (("unsettled", "unsettled"), ("saturated", "saturated"), ("dead", "wrong without contrast")):
        if metrics.get(name, 0) > 0:
            parts.append(f"{label} {100 * metrics[name]:.1f} %")
    parts.append(f"{metrics['seconds']:.2f} s")
    return "   ".join(parts)


def _clock(seconds):
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
