"""The public names; `import eqprop as ep` gives them, loaded at the first use of one."""

from eqprop.cost import Cost, CrossEntropy, SquaredError
from eqprop.equilibrium import RESULT, Equilibrium
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.contrastive import ContrastiveHebbian, CoupledLearning
from eqprop.gradient.estimate import Estimate, Estimator
from eqprop.gradient.layer import Layer
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import FiniteDifference, ImplicitDifferentiation, UnrolledDifferentiation
from eqprop.gradient.stencil import Stencil, holomorphic, one_sided, random_sign, richardson, symmetric
from eqprop.settle.base import Solver, settle
from eqprop.settle.descent import AdaptiveGradientFlow, BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.newton import Newton
from eqprop.substrates.activation import HalfHardSigmoid, HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.hopfield import GraphHopfield, LayeredHopfield
from eqprop.substrates.mechanics import FlowNetwork, SpringNetwork
from eqprop.system import CostNudged, Forced, Sum, System
from eqprop.train.experiment import Experiment
from eqprop.train.fit import fit
from eqprop.train.run import Run, load

__all__ = [
    "RESULT",
    "AdaptiveGradientFlow",
    "BlockDescent",
    "Certificate",
    "ContrastiveHebbian",
    "Cost",
    "CostNudged",
    "CoupledLearning",
    "CrossEntropy",
    "Equilibrium",
    "EquilibriumPropagation",
    "Estimate",
    "Estimator",
    "Experiment",
    "FiniteDifference",
    "FixedPoint",
    "FlowNetwork",
    "Forced",
    "GradientFlow",
    "GraphHopfield",
    "HalfHardSigmoid",
    "HardSigmoid",
    "ImplicitDifferentiation",
    "Layer",
    "LayeredHopfield",
    "Linear",
    "Logistic",
    "Newton",
    "Run",
    "Solver",
    "SpringNetwork",
    "SquaredError",
    "Stencil",
    "Sum",
    "System",
    "Tanh",
    "UnrolledDifferentiation",
    "certify",
    "fit",
    "holomorphic",
    "load",
    "one_sided",
    "random_sign",
    "richardson",
    "settle",
    "symmetric",
]
