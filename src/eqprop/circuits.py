"""Analog circuits that learn: the public names of everything that is special to circuits."""

from eqprop.bridges.operating import OperatingPoints, operating_points
from eqprop.settle.graph import GraphNewton, Stepped
from eqprop.settle.laplacian import KLU, Dense, SuperLU, sparse_direct
from eqprop.settle.measured import Measured
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
from eqprop.substrates.circuit.draw import draw, power_table, voltage_table
from eqprop.substrates.circuit.drn import DeepResistiveNetwork
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
from eqprop.substrates.circuit.imperfections import Chip, from_aihwkit_range
from eqprop.substrates.circuit.mismatch import Mismatch
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.nudging import (
    check_nudge,
    port_conductance,
    port_resistance,
    relative_beta,
    suggest_beta,
)
from eqprop.substrates.circuit.power import Balance, balance, branch_currents
from eqprop.substrates.circuit.projection import at_bounds, project
from eqprop.substrates.circuit.quantity import Fixed, Log, Plain, Quantity, Softplus
from eqprop.substrates.circuit.transient import (
    Transient,
    energy_of_inference,
    energy_of_update,
    settling_time,
    time_constants,
    transient,
)
from eqprop.substrates.circuit.units import engineering, number
