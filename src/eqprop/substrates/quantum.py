r"""Quantum spins: eigenstates of parametrised Hamiltonians as stationary points of the Rayleigh quotient.

$$E(\psi) = \frac{\langle\psi|H(\theta, x)|\psi\rangle}{\langle\psi|\psi\rangle} + \tfrac14(\langle\psi|\psi\rangle -
1)^2, \qquad H = \sum_k \theta_k P_k + \sum_j x_j Q_j$$

with sums of Pauli strings $P_k$ (trainable) and $Q_j$ (the inputs). Its stationary points are the normalised
eigenvectors; $\partial E/\partial\theta_k = \langle P_k\rangle$ is what an experiment measures. The second term, zero
at unit norm, only fixes the norm. Outputs are expectation values of observables, so any cost of them is admitted, and
nudging is a further term of the Hamiltonian.

States are real vectors of $2^n$ amplitudes: strings with an even number of Y, hence real Hamiltonians. A state may
also be a matrix, amplitudes by ancilla: a purification, $\rho = \psi\psi^\top$, for thermal states. Energies are in
units of coupling.

Source:
    B. Scellier, Quantum equilibrium propagation, 2024 (arXiv 2406.00879). C. C. Wanjura and F. Marquardt, Quantum
    equilibrium propagation for efficient training of quantum systems, 2024 (arXiv 2406.06482).
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from eqprop.system import System

__all__ = ["PauliHamiltonian", "heisenberg", "pauli", "transverse_field_ising"]


class PauliHamiltonian(System):
    """Spins whose Hamiltonian is a sum of Pauli strings, with trainable coefficients and with inputs as coefficients.

    Args:
        spins: Number of spins.
        terms: For each coefficient its Pauli strings, such as `["ZZI"]` or `["XXI", "YYI", "ZZI"]` (see `pauli`).
        coefficients: Trainable coefficients, one for each entry of `terms`. [coupling]
        observables: Pauli strings whose expectation values are the outputs.
        input_terms: For each input its Pauli strings.

    Raises:
        ValueError: for strings of the wrong length or alphabet, an odd number of Y, or numbers that do not fit.

    Example:
        >>> import jax.numpy as jnp, eqprop as ep
        >>> from eqprop.substrates.quantum import PauliHamiltonian
        >>> spin = PauliHamiltonian(1, [["Z"]], jnp.array([-1.0]), ["Z"], input_terms=[["X"]])
        >>> state = ep.settle(spin, jnp.array([-1.0]), ep.DenseEigen())
        >>> print(f"{spin.output(state.state)[0]:.3f}")  # field along (1, 1): Z is 1/sqrt(2)
        0.707
    """

    coefficients: Float[Array, " term"]
    spins: int = eqx.field(static=True)
    terms: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    observables: tuple[str, ...] = eqx.field(static=True)
    input_terms: tuple[tuple[str, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        spins: int,
        terms: Sequence[Sequence[str]],
        coefficients: Float[Array, " term"],
        observables: Sequence[str],
        *,
        input_terms: Sequence[Sequence[str]] = (),
    ):
        self.spins = spins
        self.terms = tuple(tuple(strings) for strings in terms)
        self.coefficients = jnp.asarray(coefficients)
        self.observables = tuple(observables)
        self.input_terms = tuple(tuple(strings) for strings in input_terms)
        if self.coefficients.shape != (len(self.terms),):
            raise ValueError(
                f"`coefficients` of shape {self.coefficients.shape} do not fit {len(self.terms)} terms; give one "
                "number per term."
            )
        if not self.observables:
            raise ValueError("`observables` is empty; name at least one Pauli string to read, such as 'ZI'.")
        for strings in (*self.terms, *self.input_terms, self.observables):
            for string in strings:
                _check_string(string, spins)

    def energy(self, state, inputs):
        norm = jnp.sum(state * state)
        # Finite at the zero state too, which stands in for examples that did not settle.
        norm = jnp.where(norm > 0, norm, 1)
        return jnp.sum(state * self.apply(state, inputs)) / norm + 0.25 * (norm - 1) ** 2

    def apply(
        self, state: Inexact[Array, "dim *ancilla"], inputs: Inexact[Array, " input"]
    ) -> Inexact[Array, "dim *ancilla"]:
        """H times a state, without ever forming H."""
        if jnp.shape(inputs) != (len(self.input_terms),):
            raise ValueError(
                f"`inputs` of shape {jnp.shape(inputs)} do not fit {len(self.input_terms)} input terms; give one "
                "coefficient for each (an array of length 0 where there are none)."
            )
        weighted = [(self.coefficients[k], string) for k, strings in enumerate(self.terms) for string in strings] + [
            (inputs[k], string) for k, strings in enumerate(self.input_terms) for string in strings
        ]
        # Strings that flip the same spins share one permutation of the amplitudes.
        by_flip: dict[tuple[int, ...], Array] = {}
        for coefficient, string in weighted:
            flipped = _flipped(string)
            part = coefficient.astype(state.dtype) * _signs(string, state.dtype)
            by_flip[flipped] = by_flip[flipped] + part if flipped in by_flip else part
        result = jnp.zeros_like(state)
        for flipped, diagonal in by_flip.items():
            result = result + self._flip(_scale(diagonal, state), flipped)
        return result

    def initial_state(self, inputs):
        # All amplitudes differ, so that no symmetry of H makes the start orthogonal to the state looked for.
        dim = 2**self.spins
        start = 1 + 0.5 * jnp.sin(jnp.arange(dim, dtype=self.coefficients.dtype) * 2.399963 + 0.3)
        return start / jnp.linalg.norm(start)

    def output(self, state):
        """The expectation values of the observables."""
        values = []
        for string in self.observables:
            image = self._flip(_scale(_signs(string, state.dtype), state), _flipped(string))
            values.append(jnp.sum(state * image))
        norm = jnp.sum(state * state)
        return jnp.stack(values) / jnp.where(norm > 0, norm, 1)

    def _flip(self, state, flipped):
        if not flipped:
            return state
        shaped = state.reshape((2,) * self.spins + state.shape[1:])
        return jnp.flip(shaped, flipped).reshape(state.shape)


def transverse_field_ising(
    edges: Sequence[tuple[int, int]],
    spins: int,
    *,
    coupling: Float[Array, " edge"],
    field: Float[Array, " spin"],
    longitudinal: Float[Array, " spin"] | None = None,
    observables: Sequence[str],
) -> PauliHamiltonian:
    r"""$H = -\sum_{(i,j)} J_{ij} Z_i Z_j - \sum_i g_i X_i - \sum_i h_i Z_i$ on any graph.

    Args:
        edges: Pairs of spins.
        spins: Number of spins.
        coupling: J of each edge. [coupling]
        field: Transverse field g of each spin. [coupling]
        longitudinal: Longitudinal field h of each spin, or None. Without one, a ferromagnet's lowest two states are
            nearly degenerate, and the nudge must be much weaker than their gap.
        observables: Pauli strings that are read.
    """
    terms = [[pauli(spins, {i: "Z", j: "Z"})] for i, j in edges] + [[pauli(spins, {i: "X"})] for i in range(spins)]
    coefficients = [-jnp.asarray(coupling), -jnp.asarray(field)]
    if longitudinal is not None:
        terms += [[pauli(spins, {i: "Z"})] for i in range(spins)]
        coefficients.append(-jnp.asarray(longitudinal))
    return PauliHamiltonian(spins, terms, jnp.concatenate(coefficients), observables)


def heisenberg(
    edges: Sequence[tuple[int, int]],
    spins: int,
    *,
    coupling: Float[Array, " edge"],
    field: Float[Array, " spin"],
    observables: Sequence[str],
) -> PauliHamiltonian:
    r"""$H = \sum_{(i,j)} J_{ij}(X_i X_j + Y_i Y_j + Z_i Z_j) - \sum_i h_i Z_i$; positive J is antiferromagnetic."""
    terms = [[pauli(spins, {i: axis, j: axis}) for axis in "XYZ"] for i, j in edges]
    terms += [[pauli(spins, {i: "Z"})] for i in range(spins)]
    return PauliHamiltonian(spins, terms, jnp.concatenate([jnp.asarray(coupling), -jnp.asarray(field)]), observables)


def pauli(spins: int, axes: dict[int, str]) -> str:
    """A Pauli string from the axis of each spin that it touches: `pauli(4, {0: "Z", 2: "X"})` is `"ZIXI"`."""
    if any(not 0 <= spin < spins for spin in axes):
        raise ValueError(f"`axes` names spins {sorted(axes)}; there are 0 to {spins - 1}.")
    return "".join(axes.get(spin, "I") for spin in range(spins))


def _check_string(string, spins):
    if len(string) != spins or set(string) - set("IXYZ"):
        raise ValueError(f"A Pauli string for {spins} spins has {spins} letters of I, X, Y, Z; got {string!r}.")
    if string.count("Y") % 2:
        raise ValueError(
            f"{string!r} holds an odd number of Y, which makes the Hamiltonian complex; amplitudes are real here. Turn "
            "the spins' axes so that Y appears in pairs."
        )


def _flipped(string):
    """The spins whose value a string flips."""
    return tuple(k for k, axis in enumerate(string) if axis in "XY")


def _signs(string, dtype):
    r"""The signs a string gives to the basis states before it flips them; $Y\ldots Y = (-1)^{n/2}(XZ)\ldots(XZ)$."""
    signs = np.ones(1)
    for axis in string:
        signs = np.kron(signs, np.array([1.0, -1.0 if axis in "YZ" else 1.0]))
    return jnp.asarray((-1.0) ** (string.count("Y") // 2) * signs, dtype)


def _scale(diagonal, state):
    return diagonal.reshape(diagonal.shape + (1,) * (state.ndim - 1)) * state
