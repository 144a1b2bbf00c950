"""Spins: Ising models on any graph, and Boltzmann machines in layers with binary and categorical units."""

from eqprop.substrates.spins.field import nudge_field
from eqprop.substrates.spins.ising import Ising, ising_from_couplings
from eqprop.substrates.spins.layered import Categorical, LayeredBoltzmann, Spins

__all__ = ["Categorical", "Ising", "LayeredBoltzmann", "Spins", "ising_from_couplings", "nudge_field"]
