"""The public names; `import eqprop as ep` gives them, loaded at the first use of one."""

from eqprop.cost import Cost, CrossEntropy, ErrorRate, SquaredError
from eqprop.equilibrium import RESULT, Ensemble, Equilibrium
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.contrastive import ContrastiveHebbian, CoupledLearning
from eqprop.gradient.covariance import BoltzmannCovariance
from eqprop.gradient.deadzone import DeadZone, dead_zone
from eqprop.gradient.estimate import Estimate, Estimator
from eqprop.gradient.layer import Layer
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import FiniteDifference, ImplicitDifferentiation, UnrolledDifferentiation
from eqprop.gradient.stencil import Stencil, holomorphic, one_sided, random_sign, richardson, symmetric
from eqprop.settle.base import Solver, settle
from eqprop.settle.descent import AdaptiveGradientFlow, BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.newton import Newton
from eqprop.settle.sample import MALA, Enumeration, Gibbs, Langevin, Sampler
from eqprop.substrates.activation import HalfHardSigmoid, HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.hopfield import GraphHopfield, LayeredHopfield
from eqprop.substrates.mechanics import FlowNetwork, SpringNetwork
from eqprop.substrates.spins import Categorical, Ising, LayeredBoltzmann, Spins, ising_from_couplings
from eqprop.system import CostNudged, Forced, Sum, System
from eqprop.train.experiment import Experiment
from eqprop.train.fit import fit
from eqprop.train.run import Run, load

__all__ = [
    "MALA",
    "RESULT",
    "AdaptiveGradientFlow",
    "BlockDescent",
    "BoltzmannCovariance",
    "Categorical",
    "Certificate",
    "ContrastiveHebbian",
    "Cost",
    "CostNudged",
    "CoupledLearning",
    "CrossEntropy",
    "DeadZone",
    "Ensemble",
    "Enumeration",
    "Equilibrium",
    "EquilibriumPropagation",
    "ErrorRate",
    "Estimate",
    "Estimator",
    "Experiment",
    "FiniteDifference",
    "FixedPoint",
    "FlowNetwork",
    "Forced",
    "Gibbs",
    "GradientFlow",
    "GraphHopfield",
    "HalfHardSigmoid",
    "HardSigmoid",
    "ImplicitDifferentiation",
    "Ising",
    "Langevin",
    "Layer",
    "LayeredBoltzmann",
    "LayeredHopfield",
    "Linear",
    "Logistic",
    "Newton",
    "Run",
    "Sampler",
    "Solver",
    "Spins",
    "SpringNetwork",
    "SquaredError",
    "Stencil",
    "Sum",
    "System",
    "Tanh",
    "UnrolledDifferentiation",
    "certify",
    "dead_zone",
    "fit",
    "holomorphic",
    "ising_from_couplings",
    "load",
    "one_sided",
    "random_sign",
    "richardson",
    "settle",
    "symmetric",
]
