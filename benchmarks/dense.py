"""Dense networks measured: a whole EqProp gradient against backpropagation through the feed-forward net of its shape.

Run `python benchmarks/dense.py --out results/dense`: prints a table, and writes `dense.json` and `dense.png`. Compare
ratios of one run, not times of different runs; the interleaved median of many calls is taken, compilation apart. One
thread: `taskset -c 0 python benchmarks/dense.py`. Beside each time stands the cosine with the exact gradient. Networks
have weights U(±0.7/sqrt(fan-in)) and linear outputs, at initialisation and (`--trained EPOCHS`, with MNIST at hand)
after epochs of training. The PyTorch baseline is the literature's eager style: 20 free and 4 nudged Euler steps.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

import eqprop as ep

SHAPES = [(784, 500, 10), (784, 512, 512, 10), (784, 500, 500, 500, 10)]
COST = ep.SquaredError()


def estimator() -> ep.EquilibriumPropagation:
    """The settings that the presets train with."""
    nudged = ep.BlockDescent(rtol=0.1)
    return ep.EquilibriumPropagation(ep.symmetric(0.02), ep.BlockDescent(rtol=1e-2, atol=1e-6), nudged_solver=nudged)


def exact() -> ep.EquilibriumPropagation:
    """The same, settled to rounding and with a weaker nudge: what the cosine is taken with."""
    return ep.EquilibriumPropagation(ep.symmetric(0.005), ep.BlockDescent(rtol=1e-6, atol=1e-8, max_steps=5000))


def feed_forward(network, inputs):
    """The outputs of the feed-forward net with the same weights and activations."""
    hidden = inputs
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        hidden = hidden @ weight + bias
        if index < len(network.weights) - 1:
            hidden = jnp.clip(hidden, 0, 1)
    return hidden


@eqx.filter_jit
def backpropagation(network, inputs, targets):
    """Its gradient of the mean cost."""

    def loss(network):
        return 0.5 * jnp.mean(jnp.sum((feed_forward(network, inputs) - targets) ** 2, axis=1))

    return eqx.filter_grad(loss)(network)


@eqx.filter_jit
def propagation(network, inputs, targets):
    """The EqProp gradient with its evidence."""
    return estimator()(network, COST, inputs, targets)


def medians(runs, repeats):
    """Median times of several calls, interleaved so that a noisy machine is noisy for all of them. [s]"""
    for run in runs:
        jax.block_until_ready(run())
    times = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(run())
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def cosine(a, b):
    """Cosine between two gradients."""
    a, b = (jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0] for tree in (a, b))
    return float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))


def digits(count, seed=0):
    """MNIST, where it is at hand; else sparse random pictures."""
    try:
        from eqprop.train.data import load

        data = load("mnist")
        rows = np.random.default_rng(seed).permutation(len(data.train_inputs))[:count]
        inputs, labels = data.train_inputs[rows].reshape(count, -1), data.train_targets[rows]
    except (OSError, ValueError):
        random = np.random.default_rng(seed)
        inputs = random.uniform(size=(count, 784)) * (random.uniform(size=(count, 784)) < 0.2)
        labels = random.integers(0, 10, count)
    return jnp.asarray(inputs, jnp.float32), jnp.eye(10)[np.asarray(labels)]


def trained(network, epochs):
    """The network after so many epochs on MNIST."""
    inputs, targets = digits(60_000)
    experiment = ep.Experiment(network, COST, estimator(), optax.sgd(0.03), (inputs, targets))
    return ep.fit(experiment, epochs=epochs, batch_size=20, key=jax.random.key(1)).system


def against_backpropagation(epochs, repeats):
    """A row for each shape, state and batch size."""
    rows = []
    for shape in SHAPES:
        network = ep.LayeredHopfield(shape, key=jax.random.key(0))
        states = [("initial", network)]
        if epochs:
            states.append((f"after {epochs} epochs", trained(network, epochs)))
        for state, net in states:
            for batch in (20, 128):
                inputs, targets = digits(batch, seed=2)
                back, prop = medians(
                    [
                        lambda n=net, x=inputs, y=targets: backpropagation(n, x, y),
                        lambda n=net, x=inputs, y=targets: propagation(n, x, y).gradient,
                    ],
                    repeats,
                )
                estimate = propagation(net, inputs, targets)
                truth = eqx.filter_jit(exact())(net, COST, inputs, targets)
                rows.append(
                    {
                        "shape": "-".join(map(str, shape)),
                        "state": state,
                        "batch": batch,
                        "backpropagation_ms": 1e3 * back,
                        "eqprop_ms": 1e3 * prop,
                        "ratio": prop / back,
                        "cosine": cosine(estimate.gradient, truth.gradient),
                        "settled": float(jnp.mean(estimate.settled)),
                        "free_sweeps": float(jnp.mean(estimate.free.steps)),
                        "nudged_sweeps": float(jnp.mean(estimate.nudged.steps)),
                    }
                )
                print("{shape:>20} {state:>15} {batch:4d}  {ratio:5.2f}x  cosine {cosine:.4f}".format(**rows[-1]))
    return rows


def torch_step(batch=20, free=20, nudged=4, beta=0.5, step=0.5, by_hand=False):
    """A training step of 784-500-10 in PyTorch's eager style: Euler steps on the energy, then the contrast of energies.

    The forces are `torch.autograd`'s, of the scalar energy, as code for papers has them; or written out `by_hand`.
    """
    import torch

    torch.manual_seed(0)
    first, second = (torch.empty(*size).uniform_(-1, 1) / size[0] ** 0.5 for size in ((784, 500), (500, 10)))
    weights = [first, second, torch.zeros(500), torch.zeros(10)]
    for weight in weights:
        weight.requires_grad_(not by_hand)
    x, y = torch.rand(batch, 784), torch.eye(10)[torch.arange(batch) % 10]

    def energy(hidden, out, strength):
        first, second, inner, outer = weights
        potential = 0.5 * (hidden**2).sum() + 0.5 * (out**2).sum()
        coupling = ((x @ first) * hidden).sum() + ((hidden @ second) * out).sum() + (hidden @ inner + out @ outer).sum()
        return potential - coupling + 0.5 * strength * ((y - out) ** 2).sum()

    def forces(hidden, out, strength):
        if not by_hand:
            hidden, out = hidden.requires_grad_(), out.requires_grad_()
            return torch.autograd.grad(-energy(hidden, out, strength), (hidden, out))
        first, second, inner, outer = weights
        to_hidden = x @ first + out @ second.T + inner - hidden
        return to_hidden, hidden @ second + outer - out + strength * (y - out)

    def relax(hidden, out, count, strength):
        for _ in range(count):
            to_hidden, to_out = forces(hidden, out, strength)
            hidden, out = ((s.detach() + step * f).clamp(0, 1) for s, f in ((hidden, to_hidden), (out, to_out)))
        return hidden, out

    def gradients(hidden, out, pulled, read):
        if not by_hand:
            contrast = (energy(pulled, read, 0.0) - energy(hidden, out, 0.0)) / (beta * batch)
            return torch.autograd.grad(contrast, weights)
        differences = x.T @ (hidden - pulled), hidden.T @ out - pulled.T @ read, hidden - pulled, out - read
        return [d / (beta * batch) for d in (*differences[:2], differences[2].sum(0), differences[3].sum(0))]

    def run():
        hidden, out = relax(torch.zeros(batch, 500), torch.zeros(batch, 10), free, 0.0)
        pulled, read = relax(hidden, out, nudged, beta)
        rates = gradients(hidden, out, pulled, read)
        with torch.no_grad():
            for weight, rate in zip(weights, rates, strict=True):
                weight.sub_(rate, alpha=1e-3)

    return run


def against_torch(repeats, steps=50):
    """A whole training step of 784-500-10 at batch 20, ours in a compiled loop as `fit` has it, and PyTorch's.

    None without PyTorch.
    """
    try:
        runs = [torch_step(), torch_step(by_hand=True)]
    except ImportError:
        return None
    parameters, rest = eqx.partition(ep.LayeredHopfield(SHAPES[0], key=jax.random.key(0)), eqx.is_inexact_array)
    inputs, targets = (leaf.reshape(steps, 20, -1) for leaf in digits(20 * steps))

    @jax.jit
    def train(parameters):
        def step(parameters, batch):
            gradient = estimator()(eqx.combine(parameters, rest), COST, *batch).gradient
            return jax.tree.map(lambda p, g: p - 1e-3 * g, parameters, gradient), None

        return jax.lax.scan(step, parameters, (inputs, targets))[0]

    ours, autograd, by_hand = medians([lambda: train(parameters), *runs], repeats)
    ours /= steps
    for style, theirs in (("energy differentiated by autograd", autograd), ("forces written by hand", by_hand)):
        print(f"whole step of 784-500-10, batch 20: {theirs / ours:.1f}x faster than 20 + 4 eager steps, {style}")
    return {"eqprop_ms": 1e3 * ours, "torch_autograd_ms": 1e3 * autograd, "torch_by_hand_ms": 1e3 * by_hand}


def against_width(repeats):
    """Cost against the number of weights, width 256 to 4096: times and the log-log exponent."""
    widths, times = [256, 512, 1024, 2048, 4096], []
    inputs, targets = digits(64)
    for width in widths:
        network = ep.LayeredHopfield((784, width, 10), key=jax.random.key(0))
        times += medians([lambda n=network: propagation(n, inputs, targets).gradient], repeats)
    weights = [784 * w + 10 * w for w in widths]
    exponent = float(np.polyfit(np.log(weights), np.log(times), 1)[0])
    print(f"cost against number of weights: exponent {exponent:.2f}")
    return {"weights": weights, "ms": [1e3 * t for t in times], "exponent": exponent}


def memory_against_sweeps():
    """Temporary memory of a compiled step for different limits on the number of sweeps. [bytes]"""
    network = ep.LayeredHopfield(SHAPES[1], key=jax.random.key(0))
    inputs, targets = digits(128)

    def peak(sweeps):
        solver = ep.BlockDescent(rtol=0.0, atol=-1.0, max_steps=sweeps)
        rule = ep.EquilibriumPropagation(ep.symmetric(0.02), solver)
        run = jax.jit(lambda n: eqx.filter(rule(n, COST, inputs, targets).gradient, eqx.is_array))
        return run.lower(network).compile().memory_analysis().temp_size_in_bytes

    return {str(sweeps): peak(sweeps) for sweeps in (10, 100, 1000)}


def plot(result, path):
    """Ratios as bars, cost against weights as a line."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rows = result["against_backpropagation"]
    left.barh([f"{r['shape']}, {r['state']}, batch {r['batch']}" for r in rows], [r["ratio"] for r in rows])
    left.set_xlabel("time over backpropagation's")
    left.invert_yaxis()
    right.loglog(result["against_width"]["weights"], result["against_width"]["ms"], "o-")
    right.set(xlabel="weights", ylabel="ms", title=f"exponent {result['against_width']['exponent']:.2f}")
    figure.savefig(path, dpi=150)


def main():
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dense"))
    parser.add_argument("--trained", type=int, default=0, help="also after so many epochs of MNIST")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    result = {
        "machine": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "against_backpropagation": against_backpropagation(arguments.trained, arguments.repeats),
        "against_torch": against_torch(arguments.repeats),
        "against_width": against_width(max(arguments.repeats // 3, 3)),
        "memory_bytes": memory_against_sweeps(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "dense.json").write_text(json.dumps(result, indent=1))
    plot(result, arguments.out / "dense.png")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
