"""What can be wrong with a circuit. Each error names the node or branch and the remedy."""

__all__ = [
    "CircuitError",
    "ConvergenceError",
    "FloatingNodeError",
    "InconsistentAmplifierWeights",
    "NonPassiveError",
    "NotReciprocalError",
    "NudgeTooStrong",
    "SingularCircuitError",
    "UnboundedCircuitError",
    "VoltageLoopError",
    "WeakNudge",
    "WeaklyGroundedNode",
]


class CircuitError(ValueError):
    """A circuit that has no operating point, or none that can be trained."""


class FloatingNodeError(CircuitError):
    """A node without a conducting path to ground or a source: its voltage is not determined."""


class UnboundedCircuitError(FloatingNodeError):
    """A current source feeds a floating island: its voltage would be infinite."""


class VoltageLoopError(CircuitError):
    """Voltage sources or amplifiers that determine a node twice."""


class NonPassiveError(CircuitError):
    """A negative conductance: the co-content is not convex."""


class SingularCircuitError(CircuitError):
    """Conductances that cancel at a node: its voltage is not determined."""


class NotReciprocalError(CircuitError):
    """A device whose Jacobian is not symmetric: there is no co-content, and nudging gives no gradient."""


class InconsistentAmplifierWeights(CircuitError):
    """Amplifiers on two paths between the same nodes that weigh the co-content differently."""


class NudgeTooStrong(CircuitError):
    """A negative nudging conductance beyond the port conductance of the outputs."""


class ConvergenceError(CircuitError):
    """The operating point was not found."""


class WeaklyGroundedNode(UserWarning):
    """A node that only diodes, gmin or open conductances connect to the rest."""


class WeakNudge(UserWarning):
    """A nudge whose response drowns in read noise or rounding."""
