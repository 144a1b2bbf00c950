r"""Samplers: solvers whose equilibrium is the Boltzmann distribution $p(s) \propto e^{-E(s)/T}$."""

from eqprop.settle.sample.base import Kernel, Sampler
from eqprop.settle.sample.enumeration import Enumeration
from eqprop.settle.sample.gibbs import Gibbs
from eqprop.settle.sample.langevin import MALA, Langevin

__all__ = ["MALA", "Enumeration", "Gibbs", "Kernel", "Langevin", "Sampler"]
