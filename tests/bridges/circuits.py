"""Circuits that several tests of bridges use."""

import numpy as np

from eqprop.substrates.circuit.devices import AntiparallelDiodes, SpiceDiode
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network
from eqprop.substrates.circuit.quantity import Softplus


def layered(inputs: int, hidden: int, outputs: int, seed: int) -> Network:
    """A small layered network: mirrored inputs, split diodes, two crossbars."""
    random = np.random.default_rng(seed)
    circuit = Circuit()
    x = circuit.inputs("x", inputs, mirrored=True)
    bias = circuit.source("bias", [1.0, -1.0])
    h = circuit.nodes("h", hidden)
    y = circuit.nodes("y", outputs)
    circuit.crossbar(
        "W1", x + bias, h, conductance=random.uniform(1e-5, 1e-3, (2 * inputs + 2, hidden)), trainable=True
    )
    circuit.split("diode", h, SpiceDiode(1e-6))
    circuit.crossbar("W2", h + bias, y, conductance=random.uniform(1e-5, 1e-3, (hidden + 2, outputs)), trainable=True)
    circuit.outputs(y)
    return circuit.compile()


def scattered(free: int, seed: int) -> Network:
    """A random net: a few inputs, about six resistors a node, diodes between any nodes."""
    random = np.random.default_rng(seed)
    circuit = Circuit()
    x = circuit.inputs("x", 3)
    n = circuit.nodes("n", free)
    pool = x + n
    # A spanning tree joins everything to an input; the rest is scattered.
    earlier = [int(random.integers(0, 3 + k)) for k in range(free)]
    circuit.resistors(
        "tree", n, pool[np.array(earlier)], conductance=10 ** random.uniform(-5, -3, free), trainable=True
    )
    a, b = random.integers(0, 3 + free, (2, 5 * free))
    keep = (a != b) & ((a >= 3) | (b >= 3))
    a, b = a[keep], b[keep]
    circuit.resistors("mesh", pool[a], pool[b], conductance=10 ** random.uniform(-6, -3, len(a)), trainable=True)
    d, e = random.integers(0, free, (2, max(free // 2, 4)))
    d, e = d[d != e], e[d != e]
    circuit.diodes("d", n[d], n[e], SpiceDiode(10 ** random.uniform(-9, -6), float(random.uniform(1, 2))))
    circuit.current_source("bias", n[: max(free // 10, 1)], random.uniform(-1e-4, 1e-4, max(free // 10, 1)))
    circuit.outputs(n[-2:])
    return circuit.compile()


def everything() -> Network:
    """One of each element and device that SPICE can hold exactly."""
    random = np.random.default_rng(1)
    circuit = Circuit()
    x = circuit.inputs("x", 4, gain=2.0, mirrored=True)
    bias = circuit.source("bias", [1.0, -1.0], trainable=True)
    h = circuit.nodes("h", 8)
    conductance = random.uniform(1e-5, 1e-3, (10, 8))
    circuit.crossbar("W1", x + bias, h, conductance=conductance, trainable=True, bounds=(1e-7, 1e-2))
    circuit.split("diode", h, SpiceDiode(1e-6))
    amplified = circuit.amplifiers("amp", h, gain=4.0)
    y = circuit.nodes("y", 3)
    circuit.crossbar("W2", amplified + bias, y, conductance=Softplus(random.uniform(1e-5, 1e-3, (10, 3))))
    circuit.resistors("load", y, circuit.ground, conductance=[0.0, 1e-5, 1e-6])
    circuit.diodes("pair", y, circuit.ground, AntiparallelDiodes(SpiceDiode(1e-8, 1.5)))
    circuit.norton("norton", y, [0.1, 0.2, 0.3], conductance=1e-5, trainable=True)
    circuit.current_source("current", y, "1u", trainable=True)
    z = circuit.node("z")
    circuit.floating_source("floating", y[0:1], z, 0.3)
    circuit.resistors("rz", circuit.ground, z, resistance="10k")
    circuit.capacitors("cap", y, circuit.ground, "1n")
    circuit.outputs(y, y[np.array([1, 2, 0])], gain=2.0)
    return circuit.compile()
