"""Operating points by our solvers in batches against those of libngspice, on the same circuits.

    taskset -c 0 python benchmarks/newton_against_ngspice.py [--mesh] [--deep]

Both in float64, in one process, the shortest of several times. An operating point of a training run begins with inputs
and ends with voltages, so the ratio counts both on both sides: ours takes an array of inputs and gives an array of
voltages; ngspice's sources are set, `op` runs, node voltages are read from memory; nothing is parsed again. The time of
`op` alone stands beside it. Ours is a batch (128 of the small circuit, 64 of the others), by the example. The circuits
are layered: mirrored inputs, a hidden layer of diodes, outputs.

`--mesh` adds circuits without layers: about six resistors a node to nodes anywhere, diodes between any nodes. `--deep`
adds the deep resistive network 784-100-10, which ngspice needs minutes for: exact block descent with ideal diodes
against sharp junctions in ngspice. That ratio is of an idealisation and a structure, not of two solvers. Prints a
table, and writes `newton_against_ngspice.json` to `benchmarks/results`.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from _measure import options, save

from eqprop.bridges.ngspice import NgspiceBench
from eqprop.settle.base import settle
from eqprop.settle.descent import BlockDescent
from eqprop.settle.graph import GraphNewton
from eqprop.substrates.circuit.devices import SpiceDiode
from eqprop.substrates.circuit.drn import DeepResistiveNetwork
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


def mesh(free: int) -> Network:
    """A random net: a spanning tree of resistors, five more a node, diodes between half as many pairs of nodes."""
    random = np.random.default_rng(1)
    circuit = Circuit()
    x, n = circuit.inputs("x", 3), circuit.nodes("n", free)
    pool = x + n
    earlier = np.array([random.integers(0, 3 + k) for k in range(free)])
    circuit.resistors("tree", n, pool[earlier], conductance=10 ** random.uniform(-5, -3, free))
    a, b = random.integers(0, 3 + free, (2, 5 * free))
    kept = (a != b) & ((a >= 3) | (b >= 3))
    a, b = a[kept], b[kept]
    circuit.resistors("mesh", pool[a], pool[b], conductance=10 ** random.uniform(-6, -3, len(a)))
    d, e = random.integers(0, free, (2, free // 2))
    circuit.diodes("d", n[d[d != e]], n[e[d != e]], SpiceDiode(1e-8, 1.5))
    circuit.outputs(n[-2:])
    return circuit.compile()


def best(run, seconds: float) -> float:
    """Shortest of as many times as there are in `seconds`, and three at least. [s]"""
    times = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def compare(network: Network, batch: int, seconds: float) -> dict[str, float]:
    """Times of both on one circuit."""
    inputs = 3 * jax.random.uniform(jax.random.key(0), (batch, network.topology.input_size), minval=-1.0)
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


def deep() -> dict[str, float]:
    """Times of both on one deep resistive network."""
    network = DeepResistiveNetwork([784, 100, 10], key=jax.random.key(0), input_gain=100.0)
    inputs = jax.random.uniform(jax.random.key(1), (1000, 784)) * (jax.random.uniform(jax.random.key(2), (784,)) < 0.2)
    solver = BlockDescent(rtol=1e-9, atol=1e-9, relaxation=1.0)
    solve = jax.jit(jax.vmap(lambda x: settle(network, x, solver, throw=False).state[-1]))
    outputs = solve(inputs).block_until_ready()
    ours = best(lambda: solve(inputs).block_until_ready(), 2.0) / len(inputs)
    with NgspiceBench(network.circuit().compile()) as bench:
        began = time.perf_counter()
        readings = bench.apply(np.asarray(inputs[0]), None)
        theirs = time.perf_counter() - began
    return {"ours": ours, "whole": theirs, "difference": float(np.max(np.abs(outputs[0] - readings[-10:])))}


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each figure")
    parser.add_argument("--mesh", action="store_true", help="also circuits without layers")
    parser.add_argument("--deep", action="store_true", help="also a deep resistive network: takes minutes")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print("free nodes   ours ms/point   ngspice ms/point   ratio   (op alone ms)   max |dV| V")
    circuits = [(str(free), layered(*shape), BATCHES[free]) for free, shape in SHAPES.items()]
    if arguments.mesh:
        circuits += [(f"mesh {free}", mesh(free), BATCHES[free]) for free in SHAPES]
    rows = {}
    for name, network, batch in circuits:
        r = rows[name] = compare(network, batch, arguments.seconds)
        print(
            f"{name:>10} {1e3 * r['ours']:15.4f} {1e3 * r['whole']:18.3f} {r['whole'] / r['ours']:7.0f}"
            f" {1e3 * r['ngspice']:15.3f} {r['difference']:12.1e}"
        )
    if arguments.deep:
        r = rows["784-100-10"] = deep()
        print(
            f"784-100-10 {1e3 * r['ours']:15.4f} {1e3 * r['whole']:18.0f} {r['whole'] / r['ours']:7.0f}"
            f" {'':15} {r['difference']:12.1e}"
        )
    save({"seconds": rows}, arguments.out, "newton_against_ngspice")


if __name__ == "__main__":
    main()
