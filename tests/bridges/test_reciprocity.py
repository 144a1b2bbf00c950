"""Reciprocity of a bench, measured: the port resistance of circuits, the error of what is none."""

import jax.numpy as jnp
import numpy as np
import pytest
from tests.bridges.circuits import layered

import eqprop.circuits as ckt
from eqprop.bridges.reciprocity import check_reciprocal, transfer_resistance
from eqprop.bridges.simulated import SimulatedBench
from eqprop.bridges.terminals import Terminals


class Buffered:
    """A circuit whose second output hears the first through a buffer, which tells nothing back."""

    def __init__(self, bench):
        self.bench, self.capabilities = bench, bench.capabilities
        self.set_parameters, self.close = bench.set_parameters, bench.close

    def apply(self, inputs, nudge):
        reading = self.bench.apply(inputs, nudge)
        return reading + np.where(np.arange(len(reading)) == len(reading) - 1, 0.1 * reading[-2], 0.0)


def test_transfer_resistances_are_the_port_resistance_and_a_buffer_is_found():
    network, inputs = layered(2, 4, 2, 0), jnp.array([1.0, -0.5])
    bench, terminals = SimulatedBench(network, ckt.GraphNewton(rtol=1e-9, atol=1e-12)), Terminals(network)
    found = check_reciprocal(bench, terminals, inputs, current=1e-7, tolerance=1e-6)
    state = ckt.operating_points(network, inputs[None]).state[0]
    np.testing.assert_allclose(found, ckt.port_resistance(network, state, inputs), rtol=1e-5)
    with pytest.raises(ckt.NotReciprocalError, match=r"into output 0 moves output 1 by .* answers one way only"):
        check_reciprocal(Buffered(bench), terminals, inputs, current=1e-7)
    with pytest.raises(ValueError, match="`current` must be positive, in ampere; got 0"):
        transfer_resistance(bench, terminals, inputs, current=0.0)
