"""Limits between training and a device that can be destroyed."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from eqprop.bridges.bench import Bench, Capabilities
from eqprop.bridges.errors import LimitError

__all__ = ["SafeBench"]


class SafeBench:
    """A bench whose limits are kept.

    Parameters beyond their limits are clamped, as a projected update would be, and counted in `clamped`. Inputs
    and nudges beyond theirs are refused before anything is applied: a weaker nudge than asked for would give a wrong
    gradient without a word.

    Args:
        bench: The bench; the limits are those of its capabilities.
    """

    def __init__(self, bench: Bench):
        self._bench = bench
        self.clamped = 0
        """Parameter values that were clamped so far."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of the bench."""
        return self._bench.capabilities

    def set_parameters(self, parameters: Mapping[str, Float[np.ndarray, "..."]]) -> None:
        """Write parameters, within their limits.

        Raises:
            LimitError: for a value that is not finite.
        """
        limited = {}
        for name, value in parameters.items():
            value = np.asarray(value, float)
            if not np.isfinite(value).all():
                raise LimitError(f"Parameter `{name}` holds NaN or infinity; nothing was written.")
            low, high = self.capabilities.parameter_limits.get(name, (-np.inf, np.inf))
            limited[name] = np.clip(value, low, high)
            self.clamped += int(np.sum(limited[name] != value))
        self._bench.set_parameters(limited)

    def apply(
        self, inputs: Float[np.ndarray, " input"], nudge: Float[np.ndarray, " output"] | None
    ) -> Float[np.ndarray, " terminal"]:
        """Apply inputs and nudge that are within their limits, and read.

        Raises:
            LimitError: if they are not; nothing was applied.
        """
        _check("Input", inputs, self.capabilities.input_limits, "Scale the data.")
        if nudge is not None:
            _check("Nudging force", nudge, self.capabilities.nudge_limits, "Lower beta, or clip the cost's slope.")
        return self._bench.apply(inputs, nudge)

    def close(self) -> None:
        """Close the bench."""
        self._bench.close()


def _check(what, values, limits, remedy):
    low, high = limits
    bad = ~((values >= low) & (values <= high))
    if bad.any():
        k = int(np.argmax(bad))
        raise LimitError(
            f"{what} {k} is {values[k]:.6g}, outside of [{low:g}, {high:g}]; nothing was applied. {remedy}"
        )
