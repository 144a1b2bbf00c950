r"""Whether a bench is reciprocal, measured at its outputs.

A circuit that has a co-content answers a current at one output by the same voltage at another as the other way round:
$\partial v_j/\partial I_k = \partial v_k/\partial I_j$. Where an amplifier or a transistor breaks this, there is no
scalar whose minimum the circuit finds, and a contrast of nudged phases is no gradient.

Source:
    W. Millar, Some general theorems for non-linear systems possessing resistance, 1951.
"""

import numpy as np
from jaxtyping import Array, Float

from eqprop.bridges.bench import Bench
from eqprop.bridges.terminals import Terminals
from eqprop.substrates.circuit.errors import NotReciprocalError

__all__ = ["check_reciprocal", "transfer_resistance"]


def transfer_resistance(
    bench: Bench, terminals: Terminals, inputs: Float[Array | np.ndarray, " input"], *, current: float
) -> Float[np.ndarray, "output output"]:
    """How the outputs (rows) move with currents into them (columns), by readings at plus and minus `current`. [Ω]

    Args:
        bench: The circuit.
        terminals: Says which readings are outputs.
        inputs: Inputs of an example: the operating point.
        current: Small enough for the circuit to answer in proportion, large enough to be read. [A]
    """
    if not current > 0:
        raise ValueError(f"`current` must be positive, in ampere; got {current}.")
    x, columns = np.asarray(inputs, float), []
    for unit in np.eye(bench.capabilities.outputs):
        up, down = (np.asarray(terminals.output(bench.apply(x, sign * current * unit))) for sign in (1, -1))
        columns.append((up - down) / (2 * current))
    return np.stack(columns, 1)


def check_reciprocal(
    bench: Bench,
    terminals: Terminals,
    inputs: Float[Array | np.ndarray, " input"],
    *,
    current: float,
    tolerance: float = 1e-3,
) -> Float[np.ndarray, "output output"]:
    """The transfer resistances of a bench, if they are the same both ways. [Ω]

    Reciprocity between the outputs is necessary, not sufficient: a bench with one output always passes.

    Args:
        bench: The circuit.
        terminals: Says which readings are outputs.
        inputs: Inputs of an example: the operating point.
        current: As for `transfer_resistance`. [A]
        tolerance: Largest difference, relative to the largest resistance; not below what read noise makes of it,
            noise / (current · resistance).

    Raises:
        NotReciprocalError: if they are not; it names the pair of outputs and both resistances.
    """
    found = transfer_resistance(bench, terminals, inputs, current=current)
    difference = np.abs(found - found.T)
    if difference.max() > tolerance * np.abs(found).max():
        j, k = np.unravel_index(int(np.argmax(difference)), difference.shape)
        raise NotReciprocalError(
            f"A current into output {k} moves output {j} by {found[j, k]:.4g} V/A, one into output {j} moves output "
            f"{k} by {found[k, j]:.4g} V/A. Something between them answers one way only, a buffer or an amplifier "
            "without backward current: contrasts of phases are no gradient of this circuit."
        )
    return found
