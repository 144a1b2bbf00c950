"""A circuit of resistors and diodes learns exclusive or from the voltages across its own branches.

About 10 s. Prints outputs before and after, power, and what one conductance saw in its two nudged phases.
"""

# %% The circuit
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import eqprop as ep
import eqprop.circuits as ckt

jax.config.update("jax_enable_x64", True)


def build(key):
    """±inputs and bias to eight hidden nodes with diodes to ground, and these to one output."""
    first, second = jax.random.split(key)
    circuit = ckt.Circuit()
    x, bias = circuit.inputs("x", 2, mirrored=True), circuit.source("bias", [1.0, -1.0])
    h, y = circuit.nodes("h", 8), circuit.nodes("y", 1)
    g1 = jax.random.uniform(first, (6, 8), minval=1e-5, maxval=1e-3)
    g2 = jax.random.uniform(second, (10, 1), minval=1e-5, maxval=1e-3)
    circuit.crossbar("W1", x + bias, h, conductance=g1, trainable=True, bounds=("0.1u", "10m"))
    circuit.split("d", h, ckt.SpiceDiode("1u"))
    circuit.crossbar("W2", h + bias, y, conductance=g2, trainable=True, bounds=("0.1u", "10m"))
    circuit.outputs(y)
    return circuit.compile()


def main(folder: Path, steps=300):
    """Train, draw `xor_circuit.svg`; returns the outputs for the four patterns, and the targets. [V]"""
    network = build(jax.random.key(0))
    inputs = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    targets = jnp.array([[-0.1], [0.1], [0.1], [-0.1]])

    # %% How strongly to nudge: one per cent of the output port's conductance
    points = ckt.operating_points(network, inputs)
    beta = ckt.relative_beta(0.01, network, points.state[0], inputs[0])
    propagate = ep.EquilibriumPropagation(ep.symmetric(beta), ckt.GraphNewton())
    print(f"beta = {ckt.engineering(beta, 'S')}")
    print("outputs before:", ", ".join(ckt.engineering(float(v), "V") for v in points.outputs[:, 0]))

    # %% Learning
    optimiser = optax.adam(2e-5)
    state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(network, state):
        estimate = propagate(network, ep.SquaredError(), inputs, targets)
        updates, state = optimiser.update(estimate.gradient, state)
        return ckt.project(eqx.apply_updates(network, updates)), state

    before = on_a_plane(network)
    for _ in range(steps):
        network, state = step(network, state)

    # %% What it has learned, and what it costs
    points = ckt.operating_points(network, inputs)
    print("outputs after: ", ", ".join(ckt.engineering(float(v), "V") for v in points.outputs[:, 0]))
    print(f"dissipated: {ckt.engineering(float(points.balance.absorbed.mean()), 'W')}")
    draw(folder, {"before": before, "after": on_a_plane(network)}, inputs, targets)
    return points.outputs, targets


AXIS = np.linspace(-1.5, 1.5, 41)


def on_a_plane(network):
    """The output over all pairs of input voltages. [V]"""
    plane = jnp.asarray(np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2))
    return np.asarray(ckt.operating_points(network, plane).outputs).reshape(len(AXIS), len(AXIS))


def draw(folder, planes, inputs, targets):
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
    for axes, (when, plane) in zip(panels, planes.items(), strict=True):
        shown = axes.pcolormesh(AXIS, AXIS, 1e3 * plane, cmap="coolwarm", vmin=-150, vmax=150, rasterized=True)
        axes.scatter(*np.asarray(inputs).T, c=np.asarray(targets)[:, 0], cmap="gray", edgecolor="k", s=80)
        axes.set(xlabel="first input [V]", title=f"{when} training")
    panels[0].set_ylabel("second input [V]")
    figure.colorbar(shown, ax=panels, label="output [mV]")
    figure.savefig(folder / "xor_circuit.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
