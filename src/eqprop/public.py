"""The public names; `import eqprop as ep` gives them, loaded at the first use of one."""

from eqprop.cost import Cost, CrossEntropy, ErrorRate, FunctionCost, PhaseError, RunningCost, SquaredError
from eqprop.equilibrium import RESULT, Ensemble, Equilibrium
from eqprop.gradient.bptt import BackpropagationThroughTime, UnrolledDifferentiation
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.contrastive import ContrastiveHebbian, CoupledLearning
from eqprop.gradient.covariance import BoltzmannCovariance
from eqprop.gradient.deadzone import DeadZone, dead_zone
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.estimate import Estimate, Estimator
from eqprop.gradient.gdu import UpdateComparison, compare_updates, plot_updates
from eqprop.gradient.layer import Layer
from eqprop.gradient.one_phase import OnePhase
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import FiniteDifference, ImplicitDifferentiation
from eqprop.gradient.stencil import Stencil, holomorphic, one_sided, random_sign, richardson, symmetric
from eqprop.settle.base import Solver, settle
from eqprop.settle.branches import Polished, branches, held
from eqprop.settle.descent import AdaptiveGradientFlow, BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.doubled import DoubledFlow
from eqprop.settle.eigen import DenseEigen, ThermalEigen
from eqprop.settle.lanczos import Lanczos
from eqprop.settle.newton import Newton
from eqprop.settle.outside import OutsideNudge
from eqprop.settle.path import PathNewton
from eqprop.settle.sample import MALA, Enumeration, Gibbs, Langevin, Sampler
from eqprop.substrates.activation import HalfHardSigmoid, HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.agnostic import Agnostic
from eqprop.substrates.bilevel import InnerProblem
from eqprop.substrates.conv_hopfield import Conv, ConvHopfield
from eqprop.substrates.convolution import MaxPooling, MeanPooling
from eqprop.substrates.field import AntisymmetricForced, Doubled, Dyads, Field, FieldForced, OneWay
from eqprop.substrates.hopfield import GraphHopfield, LayeredHopfield
from eqprop.substrates.mechanics import FlowNetwork, SpringNetwork
from eqprop.substrates.oscillators import LayeredOscillators, OscillatorGraph
from eqprop.substrates.quantum import PauliHamiltonian
from eqprop.substrates.spins import Categorical, Ising, LayeredBoltzmann, Spins, ising_from_couplings
from eqprop.system import CostNudged, Forced, Sum, System
from eqprop.train.experiment import Experiment
from eqprop.train.fit import fit
from eqprop.train.run import Run, load

__all__ = [
    "MALA",
    "RESULT",
    "AdaptiveGradientFlow",
    "Agnostic",
    "AntisymmetricForced",
    "BackpropagationThroughTime",
    "BlockDescent",
    "BoltzmannCovariance",
    "Categorical",
    "Certificate",
    "ContrastiveHebbian",
    "Conv",
    "ConvHopfield",
    "Cost",
    "CostNudged",
    "CoupledLearning",
    "CrossEntropy",
    "DeadZone",
    "DenseEigen",
    "Doubled",
    "DoubledFlow",
    "Dyads",
    "EchoPropagation",
    "Ensemble",
    "Enumeration",
    "Equilibrium",
    "EquilibriumPropagation",
    "ErrorRate",
    "Estimate",
    "Estimator",
    "Experiment",
    "Field",
    "FieldForced",
    "FiniteDifference",
    "FixedPoint",
    "FlowNetwork",
    "Forced",
    "FunctionCost",
    "Gibbs",
    "GradientFlow",
    "GraphHopfield",
    "HalfHardSigmoid",
    "HardSigmoid",
    "ImplicitDifferentiation",
    "InnerProblem",
    "Ising",
    "Lanczos",
    "Langevin",
    "Layer",
    "LayeredBoltzmann",
    "LayeredHopfield",
    "LayeredOscillators",
    "Linear",
    "Logistic",
    "MaxPooling",
    "MeanPooling",
    "Newton",
    "OnePhase",
    "OneWay",
    "OscillatorGraph",
    "OutsideNudge",
    "PathNewton",
    "PauliHamiltonian",
    "PhaseError",
    "Polished",
    "Run",
    "RunningCost",
    "Sampler",
    "Solver",
    "Spins",
    "SpringNetwork",
    "SquaredError",
    "Stencil",
    "Sum",
    "System",
    "Tanh",
    "ThermalEigen",
    "UnrolledDifferentiation",
    "UpdateComparison",
    "branches",
    "certify",
    "compare_updates",
    "dead_zone",
    "fit",
    "held",
    "holomorphic",
    "ising_from_couplings",
    "load",
    "one_sided",
    "plot_updates",
    "random_sign",
    "richardson",
    "settle",
    "symmetric",
]
