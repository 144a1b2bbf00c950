"""Random layered circuits for tests."""

import jax
import jax.numpy as jnp

import eqprop.circuits as ckt


def layered(seed=0, inputs=4, hidden=8, outputs=3, *, device=None, drive=1.0, sources=False, gain=1.0):
    """±inputs and bias, a crossbar, hidden nodes with diodes to ground, a crossbar, linear outputs."""
    keys = jax.random.split(jax.random.key(seed), 4)
    circuit = ckt.Circuit()
    x = circuit.inputs("x", inputs, gain=drive, mirrored=True)
    bias = circuit.source("bias", [1.0, -1.0], trainable=sources)
    h, y = circuit.nodes("h", hidden), circuit.nodes("y", outputs)
    first = jax.random.uniform(keys[0], (2 * inputs + 2, hidden), minval=1e-5, maxval=1e-3)
    second = jax.random.uniform(keys[1], (hidden + 2, outputs), minval=1e-5, maxval=1e-3)
    circuit.crossbar("W1", x + bias, h, conductance=first, trainable=True)
    circuit.split("d", h, ckt.SpiceDiode(1e-6) if device is None else device)
    circuit.crossbar("W2", h + bias, y, conductance=second, trainable=True)
    if sources:
        circuit.current_source("i", y, jnp.linspace(1e-5, 3e-5, outputs), trainable=True)
    circuit.outputs(y, gain=gain)
    return circuit.compile()


def cascade(layers=3, gain=4.0, current_gain=0.25, *, seed=0, width=3):
    """Resistive layers with amplifiers between them."""
    keys = jax.random.split(jax.random.key(seed), 2 * layers)
    circuit = ckt.Circuit()
    nodes = circuit.inputs("x", 2) + circuit.source("one", 1.0)
    for k in range(layers):
        made = circuit.nodes(f"n{k}_", width)
        g = jax.random.uniform(keys[2 * k], (len(nodes), width), minval=1e-4, maxval=1e-3)
        circuit.crossbar(f"W{k}", nodes, made, conductance=g, trainable=True)
        circuit.diodes(f"d{k}", made, circuit.ground, ckt.SpiceDiode(1e-6, 2.0))
        last = k == layers - 1
        nodes = made if last else circuit.amplifiers(f"a{k}_", made, gain=gain, current_gain=current_gain)
    circuit.outputs(nodes)
    return circuit.compile()
