from eqprop.cost import Cost, CrossEntropy, SquaredError
from eqprop.equilibrium import RESULT, Equilibrium
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import Stencil, holomorphic, one_sided, random_sign, richardson, symmetric
from eqprop.settle.base import settle
from eqprop.settle.descent import AdaptiveGradientFlow, BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.newton import Newton
from eqprop.system import CostNudged, Forced, System
from eqprop.substrates.activation import HalfHardSigmoid, HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.hopfield import GraphHopfield, LayeredHopfield
from eqprop.gradient.reference import *
from eqprop.gradient.contrastive import *
from eqprop.gradient.layer import Layer
from eqprop.gradient.certify import Certificate, certify
