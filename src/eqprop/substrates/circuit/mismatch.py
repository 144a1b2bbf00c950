r"""A circuit as it comes from the foundry: diodes, sources, amplifiers and wires that are not as drawn.

A `Chip` says what happens to the parameters that are written; this is what happens to everything around them. The
circuit that is learned with remains the one as drawn (`Terminals`); the one that settles is the one as made.

Source:
    J. Kendall et al., Training end-to-end analog neural networks with equilibrium propagation, 2020 (amplifiers). For
    the finite gain, $A_\mathrm{eff} = A/(1 + |A|/A_0)$: P. Horowitz and W. Hill, The art of electronics, 2015.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from eqprop.substrates.circuit.devices import AntiparallelDiodes, Device, Resistor, ShockleyDiode, SpiceDiode
from eqprop.substrates.circuit.elements import Amplifiers, Branches, Crossbar, Element, InputSources, VoltageSources
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.quantity import Fixed, Quantity

__all__ = ["Mismatch"]


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """What is not as drawn in one fabricated circuit. With everything off the circuit is the one that was drawn.

    Args:
        saturation_dtod: Spread of the diodes' saturation currents: standard deviation of their logarithm.
        emission_dtod: Relative spread of the diodes' emission coefficients.
        source_dtod: Relative spread of the voltages of input and constant sources to ground, a gain error of each.
        source_resistance: In series with each of these sources. [Ω]
        line_resistance: Of a crossbar's wires from one crossing to the next. Rows are fed at their first crossing,
            columns read behind their last. [Ω]
        amplifier_dtod: Relative spread of the amplifiers' voltage gains. Current gains stay, so that the common factor
            of a layer's gradient is lost; several amplified stages then have no co-content, and do not compile.
        open_loop_gain: Of the operational amplifiers behind the gains; infinite for exact gains.
    """

    saturation_dtod: float = 0.0
    emission_dtod: float = 0.0
    source_dtod: float = 0.0
    source_resistance: float = 0.0
    line_resistance: float = 0.0
    amplifier_dtod: float = 0.0
    open_loop_gain: float = math.inf

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise ValueError(f"`Mismatch.{field.name}` must not be negative; got {value}.")
        if self.open_loop_gain == 0:
            raise ValueError("`Mismatch.open_loop_gain` must be positive; leave it out for exact gains.")

    def fabricate(self, key: PRNGKeyArray, circuit: Circuit) -> Circuit:
        """The circuit as made; the nodes as drawn keep their numbers, further ones come after them.

        Args:
            key: Which specimen: the same key gives the same one.
            circuit: As drawn.

        Returns:
            Another circuit, to be compiled; `circuit` itself if everything is off.
        """
        if self == Mismatch():
            return circuit
        made = Circuit()
        made.names, made.groups = list(circuit.names), dict(circuit.groups)
        made.input_size = circuit.input_size
        made.output_plus, made.output_minus, made.output_gain = (
            circuit.output_plus, circuit.output_minus, circuit.output_gain,
        )  # fmt: skip
        for index, (name, element) in enumerate(circuit.elements.items()):
            self._make(made, name, element, jax.random.fold_in(key, index))
        return made

    def _make(self, made: Circuit, name: str, element: Element, key: PRNGKeyArray) -> None:
        if isinstance(element, Branches):
            made.elements[name] = eqx.tree_at(
                lambda e: e.device, element, self._device(key, element.device, len(element))
            )
        elif isinstance(element, InputSources):
            factor = _factors(key, self.source_dtod, len(element.plus))
            gain = tuple(float(g * f) for g, f in zip(element.gain, factor, strict=True))
            made.elements[name] = InputSources(self._behind_resistance(made, name, element.plus), element.number, gain)
        elif isinstance(element, VoltageSources) and not element.minus.index.any():
            voltage = _scaled(element.voltage, _factors(key, self.source_dtod, len(element.plus)))
            plus = self._behind_resistance(made, name, element.plus)
            made.elements[name] = VoltageSources(plus, element.minus, voltage)
        elif isinstance(element, Amplifiers):
            factor = _factors(key, self.amplifier_dtod, len(element.input))
            gain = (a * f / (1 + abs(a) / self.open_loop_gain) for a, f in zip(element.gain, factor, strict=True))
            made.elements[name] = Amplifiers(
                element.input, element.output, tuple(map(float, gain)), element.current_gain
            )
        elif isinstance(element, Crossbar) and self.line_resistance > 0:
            self._wire(made, name, element)
        else:
            made.elements[name] = element

    def _device(self, key: PRNGKeyArray, device: Device, count: int) -> Device:
        if isinstance(device, AntiparallelDiodes):
            return AntiparallelDiodes(self._device(key, device.diode, count))
        if not isinstance(device, ShockleyDiode | SpiceDiode):
            return device
        one, two = jax.random.split(key)
        found = device
        if self.saturation_dtod > 0:
            factor = np.exp(self.saturation_dtod * np.asarray(jax.random.normal(one, (count,)), float))
            found = _with(found, "saturation_current", _scaled(device.saturation_current, factor))
        if self.emission_dtod > 0:
            found = _with(found, "emission", _scaled(device.emission, _factors(two, self.emission_dtod, count)))
        return found

    def _behind_resistance(self, made, name, plus):
        if self.source_resistance == 0:
            return plus
        inner = made.nodes(f"{name}_inner", len(plus))
        made.resistors(f"{name}_source", inner, plus, resistance=self.source_resistance)
        return inner

    def _wire(self, made, name, bar):
        rows, columns = len(bar.rows), len(bar.columns)
        fed, read = made.nodes(f"{name}_row", rows * columns), made.nodes(f"{name}_column", rows * columns)
        place = np.arange(rows * columns).reshape(rows, columns)
        along_row = bar.rows + fed[place[:, :-1].ravel()], fed[place[:, 0]] + fed[place[:, 1:].ravel()]
        down_column = read[place[:-1].ravel()] + read[place[-1]], read[place[1:].ravel()] + bar.columns
        for part, (tail, head) in (("rows", along_row), ("columns", down_column)):
            made.resistors(f"{name}_{part}", tail, head, resistance=self.line_resistance)
        made.elements[name] = Branches(fed, read, Resistor(_flat(bar.conductance)))


def _factors(key, spread, count):
    """1 plus a relative spread, kept positive."""
    if spread == 0:
        return np.ones(count)
    return np.maximum(1 + spread * np.asarray(jax.random.normal(key, (count,)), float), 1e-3)


def _scaled(quantity: Quantity, factor: np.ndarray) -> Quantity:
    if (factor == 1).all():
        return quantity
    return quantity.at(np.asarray(quantity.value) * factor)


def _with(device, name, quantity):
    # The spread makes of one number one for each branch: another structure, hence no `tree_at` on the leaves.
    return eqx.tree_at(lambda d: getattr(d, name), device, quantity, is_leaf=lambda node: isinstance(node, Quantity))


def _flat(quantity: Quantity) -> Quantity:
    if isinstance(quantity, Fixed):
        return Fixed(np.ravel(quantity.value))
    return jax.tree.map(jnp.ravel, quantity)
