"""Exclusive or on an Ising model: two inputs, hidden spins, one output spin."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from pydantic import PositiveFloat, PositiveInt

from eqprop.cost import SquaredError
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import one_sided, symmetric
from eqprop.settle.base import settle
from eqprop.settle.sample import Enumeration
from eqprop.substrates.spins import Ising
from eqprop.system import CostNudged
from eqprop.train.experiment import Experiment
from eqprop.train.recipes.base import Recipe
from eqprop.train.sampling import GibbsSettings

__all__ = ["IsingRecipe", "wrong_sign"]


class IsingRecipe(Recipe):
    """Exclusive or, inputs and output ±1, on a restricted graph. It has data of its own: the four patterns."""

    kind: Literal["xor_ising"] = "xor_ising"
    hidden: PositiveInt = 4
    """Hidden spins, each coupled to both inputs and the output."""
    gain: PositiveFloat = 1.0
    """Initial couplings are normal with deviation gain/sqrt(mean degree)."""
    beta: float = 4.0
    """Nudging strength: a margin here, not a small number; far below the gap to another answer nothing is learned."""
    stencil: Literal["one_sided", "symmetric"] = "one_sided"
    sampler: GibbsSettings = GibbsSettings(temperature=0.5, chains=16)

    def build(self, config, key):
        """The experiment."""
        first, last = 2, 2 + self.hidden
        edges = [(i, h) for i in range(2) for h in range(first, last)] + [(h, last) for h in range(first, last)]
        system = Ising(2, self.hidden + 1, edges, [last], key=key, gain=self.gain)
        rule = one_sided if self.stencil == "one_sided" else symmetric
        beta = jnp.asarray(self.beta, jnp.zeros(()).dtype)
        propagate = EquilibriumPropagation(rule(beta), self.sampler.build(), CostNudged)
        patterns = np.asarray([[-1, -1], [-1, 1], [1, -1], [1, 1]], jnp.zeros(()).dtype)
        pairs = jnp.asarray(patterns), jnp.asarray(-patterns.prod(1, keepdims=True))
        steps = max(len(patterns) // config.batch_size, 1)
        return Experiment(
            system=system,
            cost=SquaredError(),
            propagate=propagate,
            optimiser=config.optimiser.build(system, steps, config.epochs),
            train=pairs,
            test=pairs,
            wrong=wrong_sign,
        )

    def report_sections(self, run):
        """What each pattern is answered, exactly."""
        from eqprop.train.report.section import Section

        experiment = run.experiment()
        system, (patterns, wanted) = experiment.system, experiment.train
        exact = Enumeration(self.sampler.temperature)
        means = [float(settle(system, x, exact).expect(system.output)[0]) for x in patterns]
        rows = [
            (", ".join(f"{v:+.0f}" for v in x), f"{y[0]:+.0f}", f"{mean:+.3f}", f"{(1 + y[0] * mean) / 2:.1%}")
            for x, y, mean in zip(np.asarray(patterns), np.asarray(wanted), means, strict=True)
        ]
        text = (
            f"The mean of the output spin at temperature {self.sampler.temperature:g}, over all configurations of the "
            f"{self.hidden + 1} spins, without sampling. An answer counts as right where the mean has the wanted sign."
        )
        heads = ("inputs", "wanted", "mean output", "single readings that are right")
        return [Section("Answers", text, table=(heads, *rows))]


def wrong_sign(output, targets):
    """Whether any mean output has the wrong sign."""
    return jnp.any(output * targets <= 0)
