"""Settings of samplers, for the recipes whose physics is random."""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from eqprop.settle.sample import Gibbs
from eqprop.train.settings import Settings

__all__ = ["GibbsSettings"]


class GibbsSettings(Settings):
    """Block Gibbs sampling."""

    temperature: PositiveFloat = 1.0
    """In the energy's unit."""
    chains: PositiveInt = 8
    """Independent chains of each example."""
    burn_in: NonNegativeInt = 10
    """Sweeps before the first sample, in each phase."""
    samples: PositiveInt = 10
    """Samples kept of each chain."""
    thin: PositiveInt = 1
    """Sweeps from one sample to the next."""
    hottest: PositiveFloat | None = None
    """With it the burn-in anneals from this temperature; in nudged phases up to it and down again."""

    def build(self) -> Gibbs:
        """The sampler."""
        return Gibbs(self.temperature, self.chains, self.burn_in, self.samples, self.thin, self.hottest)
