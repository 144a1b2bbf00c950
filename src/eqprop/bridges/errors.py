"""What can go wrong between the library and a simulator or a bench."""

__all__ = ["BackendUnavailable", "BenchError", "BridgeError", "LimitError", "NetlistError", "OperatingPointError"]


class BridgeError(RuntimeError):
    """Base class of all errors of a simulator or a bench."""


class BackendUnavailable(BridgeError):
    """A simulator is not installed, or is already in use; the message says what to do."""


class OperatingPointError(BridgeError):
    """A simulator found no operating point, or only one that is an artefact of its fallbacks."""


class NetlistError(ValueError):
    """A netlist that cannot be read or is refused; the message names the line."""


class BenchError(BridgeError):
    """A bench did not answer, or answered nonsense."""


class LimitError(BridgeError):
    """A command to a bench lies outside its safe limits; nothing was applied."""
