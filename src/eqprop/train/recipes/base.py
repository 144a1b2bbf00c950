"""What a recipe is."""

import abc
from typing import TYPE_CHECKING

from jaxtyping import PRNGKeyArray

from eqprop.train.experiment import Experiment
from eqprop.train.settings import Settings

if TYPE_CHECKING:
    from eqprop.train.config import Config

__all__ = ["Recipe"]


class Recipe(Settings):
    """The settings of one family of physics. Subclasses add `kind: Literal[...]` and their own settings."""

    @abc.abstractmethod
    def build(self, config: "Config", key: PRNGKeyArray) -> Experiment:
        """The experiment, with a freshly drawn system.

        Args:
            config: The whole configuration: data, optimiser, batch size, epochs.
            key: Decides the initial parameters.
        """
