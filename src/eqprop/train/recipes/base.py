"""What a recipe is."""

import abc
from typing import TYPE_CHECKING

from jaxtyping import PRNGKeyArray

from eqprop.train.experiment import Experiment
from eqprop.train.settings import Settings

if TYPE_CHECKING:
    from eqprop.substrates.circuit.network import Network
    from eqprop.train.config import Config
    from eqprop.train.report import Section
    from eqprop.train.run import Run

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

    def trained_circuit(self, run: "Run") -> "Network | None":
        """The circuit of a trained run, to be exported or compared; None where the family is no circuit."""
        del run
        return None

    def report_sections(self, run: "Run") -> list["Section"]:
        """Sections of the family's own for `eqprop report`: none by default.

        They stand after those on settling. Raise `LeftOut` with a sentence where one does not apply to a run.

        Args:
            run: A trained run; `run.experiment()` has its trained system.
        """
        del run
        return []
