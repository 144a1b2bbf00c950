"""Analog circuits that learn: the public names of `eqprop.substrates.circuit`."""

from eqprop.substrates.circuit.devices import (
    AntiparallelDiodes,
    Device,
    IdealDiode,
    NortonSource,
    PiecewiseLinearDiode,
    Resistor,
    ShockleyDiode,
    SpiceDiode,
    thermal_voltage,
)
from eqprop.substrates.circuit.errors import (
    CircuitError,
    ConvergenceError,
    FloatingNodeError,
    InconsistentAmplifierWeights,
    NonPassiveError,
    NotReciprocalError,
    NudgeTooStrong,
    SingularCircuitError,
    UnboundedCircuitError,
    VoltageLoopError,
    WeaklyGroundedNode,
    WeakNudge,
)
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.quantity import Fixed, Log, Plain, Quantity, Softplus
from eqprop.substrates.circuit.units import engineering, number
