"""Systems in motion: paths of least action between given ends, and runs from initial values."""

from eqprop.substrates.trajectory.animate import animate
from eqprop.substrates.trajectory.ends import Ends, FixedEnds, GivenEnds, NaturalEnds, Periodic
from eqprop.substrates.trajectory.oscillators import LCLadder, LearnedPotential, Oscillators, PendulumChain
from eqprop.substrates.trajectory.path import Lagrangian, Path
from eqprop.substrates.trajectory.recurrent import RecurrentHamiltonian, recurrent_stack
from eqprop.substrates.trajectory.shooting import shoot, shot
