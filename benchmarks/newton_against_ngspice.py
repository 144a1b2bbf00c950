"""A11: one operating point by our Newton's method in batches, against one of libngspice, on the same circuits.

    python benchmarks/newton_against_ngspice.py

Both in float64, in one process, the shortest of several times. ngspice's first figure is its `op` command alone, the
second includes setting sources and reading voltages; nothing is parsed again. Ours is a
batch (128 of the small circuit, 64 of the others), by the example. The circuits are layered: mirrored inputs, a hidden
layer of diodes, three outputs.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from eqprop.bridges.ngspice import NgspiceBench
from eqprop.settle.base import settle
from eqprop.settle.graph import GraphNewton
from eqprop.substrates.circuit.devices import SpiceDiode
from eqprop.substrates.circuit.netlist import Circuit
from eqprop.substrates.circuit.network import Network

SHAPES = {30: (8, 26, 4), 140: (64, 130, 10), 500: (64, 490, 10)}
BATCHES = {30: 128, 140: 64, 500: 64}


def layered(inputs: int, hidden: int, outputs: int) -> Network:
    """Inputs, hidden nodes with diodes, outputs; two crossbars and a bias."""
    random = np.random.default_rng(0)
    circuit = Circuit()
    x = circuit.inputs("x", inputs, mirrored=True)
    bias = circuit.source("bias", [1.0, -1.0])
    h, y = circuit.nodes("h", hidden), circuit.nodes("y", outputs)
    circuit.crossbar("W1", x + bias, h, conductance=random.uniform(1e-5, 1e-3, (2 * inputs + 2, hidden)))
    circuit.split("diode", h, SpiceDiode(1e-6))
    circuit.crossbar("W2", h + bias, y, conductance=random.uniform(1e-5, 1e-3, (hidden + 2, outputs)))
    circuit.outputs(y)
    return circuit.compile()


def best(run, seconds: float) -> float:
    """Shortest of as many times as there are in `seconds`, and three at least. [s]"""
    times = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def compare(free: int, seconds: float) -> dict[str, float]:
    """Times of both on one circuit."""
    network, batch = layered(*SHAPES[free]), BATCHES[free]
    inputs = 3 * jax.random.uniform(jax.random.key(0), (batch, SHAPES[free][0]), minval=-1.0)
    solver = GraphNewton(rtol=1e-6, atol=1e-8)
    solve = jax.jit(jax.vmap(lambda x: settle(network, x, solver, throw=False).state))
    states = solve(inputs).block_until_ready()
    ours = best(lambda: solve(inputs).block_until_ready(), seconds) / batch
    with NgspiceBench(network) as bench:
        readings = bench.apply(np.asarray(inputs[0]), None)
        theirs = best(bench.simulator.operating_point, seconds)
        whole = best(lambda: bench.apply(np.asarray(inputs[0]), None), seconds)
    difference = float(jnp.max(jnp.abs(network.voltages(states[0], inputs[0]) - readings)))
    return {"ours": ours, "ngspice": theirs, "whole": whole, "difference": difference}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each figure")
    seconds = parser.parse_args().seconds
    jax.config.update("jax_enable_x64", True)
    print("free nodes   ours ms/point   libngspice op ms   with sources and readings ms   ratio to op   max |dV| V")
    for free in SHAPES:
        r = compare(free, seconds)
        ratio = r["ngspice"] / r["ours"]
        print(
            f"{free:10d} {1e3 * r['ours']:15.4f} {1e3 * r['ngspice']:18.3f} {1e3 * r['whole']:30.3f} {ratio:13.0f}"
            f" {r['difference']:12.1e}"
        )


if __name__ == "__main__":
    main()
