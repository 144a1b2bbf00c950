from eqprop.cost import Cost, CrossEntropy, SquaredError
from eqprop.equilibrium import RESULT, Equilibrium
from eqprop.gradient.certify import Certificate, certify
from eqprop.gradient.contrastive import *
from eqprop.gradient.layer import Layer
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import *
from eqprop.gradient.stencil import Stencil, holomorphic, one_sided, random_sign, richardson, symmetric
from eqprop.settle.base import settle
from eqprop.settle.descent import AdaptiveGradientFlow, BlockDescent, FixedPoint, GradientFlow
from eqprop.settle.newton import Newton
from eqprop.substrates.activation import HalfHardSigmoid, HardSigmoid, Linear, Logistic, Tanh
from eqprop.substrates.hopfield import GraphHopfield, LayeredHopfield
from eqprop.system import CostNudged, Forced, System
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.gdu import UpdateComparison, compare_updates, plot_updates
from eqprop.settle.outside import OutsideNudge
from eqprop.substrates.conv_hopfield import Conv, ConvHopfield
from eqprop.substrates.convolution import MaxPooling, MeanPooling
