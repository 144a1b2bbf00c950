r"""Quantum phase recognition: sensor spins that learn to tell the phase of the matter they are coupled to.

The matter is a ring of spins in the ground state of

$$H = -\sum_i K_i\,S_i - \sum_i g_i X_i
    - \lambda\sum_i\bigl(\sqrt{K_iK_{i+1}}\,S_iS_{i+1} + \sqrt{g_ig_{i+1}}\,X_iX_{i+1}\bigr),
    \qquad S_i = Z_{i-1}X_iZ_{i+1},$$

in a topological (cluster) phase where $K$ prevails and a trivial one where $g$ does. Controlled-Z gates between
neighbours exchange $X_i$ and $S_i$, hence $K$ and $g$: the boundary lies where $\sum_i\log K_i = \sum_i\log g_i$,
whatever $0 \le \lambda < 1$ (in even and odd spins the model is that of Ashkin and Teller, on its self-dual line). Each
example is one such Hamiltonian with a $\lambda$ of its own and disorder in every $K_i$ and $g_i$; the coefficients are
the inputs. Trained are fields and couplings of the sensor spins, read is the first one's Z.

Source:
    C. C. Wanjura and F. Marquardt, Quantum equilibrium propagation for efficient training of quantum systems, 2024
    (arXiv 2406.06482). P. Smacchia et al., Statistical mechanics of the cluster Ising model, 2011 (the phases).
    M. Kohmoto, M. den Nijs and L. P. Kadanoff, Hamiltonian studies of the d = 2 Ashkin-Teller model, 1981 (lambda).
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree
from pydantic import Field, PositiveFloat, PositiveInt

from eqprop.cost import SquaredError
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.eigen import DenseEigen, Eigenstate
from eqprop.settle.lanczos import Lanczos
from eqprop.substrates.quantum import PauliHamiltonian, pauli
from eqprop.train.experiment import Experiment
from eqprop.train.recipes.base import Recipe

__all__ = ["QuantumPhaseRecipe", "cluster_hamiltonians", "sensor"]


class QuantumPhaseRecipe(Recipe):
    """Sensor spins beside a ring of matter; ground states by Lanczos or dense diagonalisation."""

    kind: Literal["quantum_phases"] = "quantum_phases"
    matter: Annotated[int, Field(ge=4, le=14)] = 6
    """Spins of the matter."""
    sensors: PositiveInt = 2
    """Spins of the sensor; the first is read."""
    beta: PositiveFloat = 0.1
    """Nudging strength, to stay well below the gap."""
    solver: Literal["lanczos", "dense"] = "lanczos"
    krylov: PositiveInt = 24
    """Vectors of a Lanczos run."""
    rtol: PositiveFloat = 1e-4
    train_examples: PositiveInt = 80
    test_examples: PositiveInt = 200
    window: PositiveFloat = 1.0
    """The mean logarithm of K over g is drawn from within ± this; the transition is at 0."""
    disorder: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Relative spread of the coefficients of one Hamiltonian."""
    mixing: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Largest lambda."""

    def build(self, config, key):
        """The experiment."""
        system = sensor(self.matter, self.sensors, key)
        solver = (
            Lanczos(krylov=self.krylov, rtol=self.rtol, atol=self.rtol) if self.solver == "lanczos" else DenseEigen()
        )
        random = np.random.default_rng(config.seed)
        # Held-out Hamiltonians come from draws of their own.
        train, test = (
            cluster_hamiltonians(
                random, count, self.matter, window=self.window, disorder=self.disorder, mixing=self.mixing
            )
            for count in (self.train_examples, self.test_examples)
        )
        steps = max(self.train_examples // config.batch_size, 1)
        return Experiment(
            system=system,
            cost=SquaredError(),
            propagate=EquilibriumPropagation(symmetric(self.beta), solver),
            optimiser=config.optimiser.build(system, steps, config.epochs),
            train=train,
            test=test,
            wrong=wrong_sign,
        )

    def report_sections(self, run):
        """The sensor's answers over the distance from the transition."""
        from eqprop.train.report.phases_of_matter import phases_of_matter  # late: reports draw

        experiment = run.experiment()
        assert experiment.test is not None
        system, solver, (inputs, targets) = experiment.system, experiment.solver, experiment.test

        @jax.jit
        @jax.vmap
        def read(x):
            found = solver.solve(system, x, system.initial_state(x), free=None, key=None)
            assert isinstance(found, Eigenstate)
            return system.output(found.state)[0], found.gap

        answers, gaps = (np.asarray(part) for part in read(inputs))
        cluster, field = np.split(np.asarray(inputs)[:, : 2 * self.matter], 2, axis=1)
        distance = np.log(cluster / field).mean(axis=1)
        return [phases_of_matter(distance, np.asarray(targets)[:, 0], answers, gaps, self.beta)]


def sensor(matter: int, sensors: int, key: Array) -> PauliHamiltonian:
    """Matter whose Hamiltonian is the input, and sensor spins with trainable fields and two-body couplings."""
    spins = matter + sensors
    ring = range(matter)

    def on(axes, first):
        """A string over neighbours of the ring."""
        return [pauli(spins, {(first + k) % matter: axis for k, axis in enumerate(axes)})]

    cluster, fields = [on("ZXZ", i - 1) for i in ring], [on("X", i) for i in ring]
    # The product of two neighbouring cluster terms is ZYYZ.
    pairs = [on("ZYYZ", i - 1) for i in ring] + [on("XX", i) for i in ring]
    watching = range(matter, spins)
    terms = [[pauli(spins, {s: axis})] for s in watching for axis in "XZ"]
    terms += [[pauli(spins, {s: axis, s + 1: axis})] for s in range(matter, spins - 1) for axis in "XZ"]
    terms += [[pauli(spins, {s: own, i: other})] for s in watching for i in ring for own, other in ("ZX", "XX", "ZZ")]
    coefficients = 0.3 * jax.random.normal(key, (len(terms),))
    # A transverse field of its own keeps an undecided sensor free to turn.
    coefficients = coefficients.at[: 2 * sensors : 2].add(-0.5)
    read = [pauli(spins, {matter: "Z"})]
    return PauliHamiltonian(spins, terms, coefficients, read, input_terms=cluster + fields + pairs)


def cluster_hamiltonians(
    random: np.random.Generator, count: int, matter: int, *, window: float, disorder: float, mixing: float
) -> tuple[Float[Array, "example term"], Float[Array, "example 1"]]:
    """Coefficients of `count` Hamiltonians, and +1 for the topological phase, -1 for the trivial one."""
    inputs, targets = [], []
    for _ in range(count):
        angle = np.arctan(np.exp(random.uniform(-window, window)))
        spread = 1 + disorder * random.uniform(-1, 1, size=(2, matter))
        strengths = np.array([[np.sin(angle)], [np.cos(angle)]]) * spread
        paired = random.uniform(0, mixing) * np.sqrt(strengths * np.roll(strengths, -1, axis=1))
        inputs.append(-np.concatenate([strengths.ravel(), paired.ravel()]))
        # Disorder may carry a Hamiltonian across the transition: what counts is where it ended.
        targets.append([np.sign(np.mean(np.log(strengths[0] / strengths[1])))])
    dtype = jnp.zeros(()).dtype
    return jnp.asarray(np.array(inputs), dtype), jnp.asarray(np.array(targets), dtype)


def wrong_sign(output: PyTree, targets: PyTree) -> Bool[Array, ""]:
    """Whether the sensor points the other way."""
    return jnp.sign(output[0]) != targets[0]
