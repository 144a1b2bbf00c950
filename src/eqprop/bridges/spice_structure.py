"""What a netlist has no words for, as plain data: groups, names, parametrisations, bounds, outputs.

Numbers are written by Python's shortest exact form, so that they read back bit for bit.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from eqprop.substrates.circuit import devices, elements
from eqprop.substrates.circuit.elements import Nodes
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.quantity import Fixed, Log, Plain, Quantity, Softplus

__all__ = ["describe", "rebuild"]

VERSION = 1


def describe(network: Network) -> dict:
    """The structure of a circuit, as data that JSON holds."""
    t = network.topology
    return {
        "version": VERSION,
        "names": list(t.names),
        "groups": [[name, nodes.index.tolist()] for name, nodes in network.groups],
        "elements": [[name, _element(element)] for name, element in network.items()],
        "input_size": t.input_size,
        "outputs": [t.output_plus.array.tolist(), None if t.output_minus is None else t.output_minus.array.tolist()],
        "output_gain": t.output_gain,
        "minimal_conductance": network.minimal_conductance,
        "units": list(t.units),
    }


def rebuild(structure: dict) -> Circuit:
    """The circuit that `describe` described.

    Raises:
        ValueError: for a structure of another version, or an unknown element.
    """
    if structure["version"] != VERSION:
        raise ValueError(f"structure version {structure['version']}, this library reads {VERSION}")
    circuit = Circuit()
    circuit.names = list(structure["names"])
    circuit.groups = {name: Nodes(np.array(index)) for name, index in structure["groups"]}
    circuit.elements = {name: _read_element(data) for name, data in structure["elements"]}
    circuit.input_size = structure["input_size"]
    plus, minus = structure["outputs"]
    circuit.outputs(
        Nodes(np.array(plus)), None if minus is None else Nodes(np.array(minus)), gain=structure["output_gain"]
    )
    return circuit


def _element(element: elements.Element) -> dict:
    kind = type(element).__name__
    if kind not in _ELEMENTS:
        raise ValueError(f"A `{kind}` cannot be written to a netlist; export with `structure=False`.")
    return {"is": kind, **{field: _data(getattr(element, field)) for field in _ELEMENTS[kind][1]}}


def _read_element(data: dict) -> elements.Element:
    make, fields = _ELEMENTS[data["is"]]
    return make(*(_value(data[field]) for field in fields))


def _data(value: object) -> Any:
    if isinstance(value, Nodes):
        return {"is": "Nodes", "index": value.index.tolist()}
    if isinstance(value, Quantity):
        return _quantity(value)
    if isinstance(value, devices.Device):
        kind = type(value).__name__
        if kind not in _DEVICES:
            raise ValueError(f"A `{kind}` cannot be written to a netlist; export with `structure=False`.")
        return {"is": kind, **{field: _data(getattr(value, field)) for field in _DEVICES[kind][1]}}
    return list(value) if isinstance(value, tuple) else value


def _value(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(data)
    if not isinstance(data, dict):
        return data
    kind = data["is"]
    if kind == "Nodes":
        return Nodes(np.array(data["index"]))
    if kind in _QUANTITIES:
        return _QUANTITIES[kind](data)
    make, fields = _DEVICES[kind]
    return make(*(_value(data[field]) for field in fields))


def _array(value):
    array = np.asarray(value)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": array.astype(float).reshape(-1).tolist()}


def _read_array(data):
    return np.array(data["data"], float).astype(data["dtype"]).reshape(data["shape"])


def _quantity(quantity: Quantity) -> dict:
    if isinstance(quantity, Fixed):
        return {"is": "Fixed", "value": _array(quantity.value)}
    if isinstance(quantity, Plain):
        bounds = [repr(float(b)) for b in quantity.bounds]
        return {"is": "Plain", "value": _array(quantity.value), "bounds": bounds}
    if isinstance(quantity, Softplus | Log):
        return {"is": type(quantity).__name__, "raw": _array(quantity.raw), "unit": quantity.unit}
    raise ValueError(f"A `{type(quantity).__name__}` cannot be written to a netlist; export with `structure=False`.")


def _plain(data):
    lower, upper = (float(b) for b in data["bounds"])
    return Plain(jnp.asarray(_read_array(data["value"])), lower=lower, upper=upper)


def _raw(kind: type[Softplus] | type[Log]) -> Callable[[dict], Quantity]:
    def read(data):
        raw = _read_array(data["raw"])
        whole = kind(jnp.ones(raw.shape, raw.dtype), unit=data["unit"])
        return eqx.tree_at(lambda q: q.raw, whole, jnp.asarray(raw))

    return read


_QUANTITIES: dict[str, Callable[[dict], Quantity]] = {
    "Fixed": lambda data: Fixed(_read_array(data["value"])),
    "Plain": _plain,
    "Softplus": _raw(Softplus),
    "Log": _raw(Log),
}

_DEVICES: dict[str, tuple[Callable[..., devices.Device], tuple[str, ...]]] = {
    "Resistor": (devices.Resistor, ("conductance",)),
    "NortonSource": (devices.NortonSource, ("conductance", "voltage")),
    "IdealDiode": (devices.IdealDiode, ()),
    "PiecewiseLinearDiode": (devices.PiecewiseLinearDiode, ("on_conductance", "threshold")),
    "ShockleyDiode": (
        lambda i, n, celsius: devices.ShockleyDiode(i, n, celsius=celsius),
        ("saturation_current", "emission", "celsius"),
    ),
    "SpiceDiode": (
        lambda i, n, g, celsius: devices.SpiceDiode(i, n, minimal_conductance=g, celsius=celsius),
        ("saturation_current", "emission", "minimal_conductance", "celsius"),
    ),
    "AntiparallelDiodes": (devices.AntiparallelDiodes, ("diode",)),
}

_ELEMENTS: dict[str, tuple[Callable[..., elements.Element], tuple[str, ...]]] = {
    "Branches": (elements.Branches, ("tail", "head", "device")),
    "Crossbar": (elements.Crossbar, ("rows", "columns", "conductance")),
    "CurrentSources": (elements.CurrentSources, ("into", "out_of", "current")),
    "VoltageSources": (elements.VoltageSources, ("plus", "minus", "voltage")),
    "InputSources": (elements.InputSources, ("plus", "number", "gain")),
    "Amplifiers": (elements.Amplifiers, ("input", "output", "gain", "current_gain")),
    "Capacitors": (elements.Capacitors, ("tail", "head", "capacitance")),
}
