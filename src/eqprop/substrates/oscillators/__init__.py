"""Coupled oscillators as phases: XY, oscillator Ising and Kuramoto models on any graph, and layers that classify."""

from eqprop.substrates.oscillators.graph import OscillatorGraph
from eqprop.substrates.oscillators.layered import LayeredOscillators

__all__ = ["LayeredOscillators", "OscillatorGraph"]
