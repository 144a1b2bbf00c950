"""Convolutional steps measured: equilibrium propagation, backpropagation, backpropagation through time, PyTorch.

Run `python benchmarks/conv.py`: prints a table, and writes `conv.json` and `conv.png` to `benchmarks/results`.
The network is 5x5-32, pool, 5x5-64, pool, softmax readout on 28 x 28 pictures, the estimator that of `mnist-conv`.
Our rules share a batch among the processors, as training does; PyTorch's operations share theirs, as it is set up.
Every time is the best of a few runs in one process; compare ratios, not times of different runs. The PyTorch baseline
is the same network in eager style at the same nudging strength, with the literature's counts of synchronous iterations
(60 free, 2 x 15 nudged), from the equations. Beside each time stands the cosine with backpropagation through 150 steps.
Then the cost of a step over batch size, width and depth (the cosine there is with weak nudges settled to rounding), and
its memory over the number of steps.
"""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _measure import cosine, options, product_rate, save, seconds
from _measure import memory as memory_of

import eqprop as ep
from eqprop.train.config import load_config
from eqprop.train.parallel import devices_for, estimate_shared, free_phase_shared, on_all

PROCESSORS = len(os.sched_getaffinity(0))
jax.config.update("jax_num_cpu_devices", PROCESSORS)
PICTURE = (28, 28, 1)
RECIPE = load_config("mnist-conv").recipe
RULE = RECIPE.rule()
BETA = RECIPE.estimator.beta
SCALING = {
    "batch 16": (16, 1.0, 2),
    "batch 128": (128, 1.0, 2),
    "half the width": (64, 0.5, 2),
    "one layer": (64, 1.0, 1),
    "three layers": (64, 1.0, 3),
}
"""(batch, width, depth) of further measurements beside (64, 1, 2)."""


def network(key, width=1.0, depth=2):
    """The network, as the presets have it; or wider, or with a last layer of 3x3 left out or added."""
    first, second = round(32 * width), round(64 * width)
    layers = [
        ep.Conv(first, 5, pooling=ep.MaxPooling(2)),
        ep.Conv(second, 5, pooling=ep.MaxPooling(2)),
        ep.Conv(second, 3, padding=1),
    ]
    return ep.ConvHopfield(PICTURE, layers[:depth], 10, key=key)


def pictures(batch):
    """Smooth random pictures, so that units are neither all off nor all saturated."""
    keys = jax.random.split(jax.random.key(1), 2)
    coarse = jax.random.uniform(keys[0], (batch, 7, 7, 1))
    return jax.image.resize(coarse, (batch, *PICTURE), "linear"), jax.random.randint(keys[1], (batch,), 0, 10)


def sweep_seconds(net, inputs, repeats):
    """Time of one plain sweep of a batch in chunks, from settlings of 2 and 6: none of them is at rest."""

    def settling(count):
        solver = ep.BlockDescent(rtol=0.0, atol=0.0, max_steps=count, relaxation=1.0)
        rule = ep.EquilibriumPropagation(ep.symmetric(BETA), solver, chunk=RULE.chunk)
        devices = devices_for(PROCESSORS, len(inputs))
        run = jax.jit(lambda x: free_phase_shared(rule, devices, net, x, None).state)
        return seconds(lambda: run(inputs), repeats)

    return (settling(6) - settling(2)) / 4


def sweep_work(batch):
    """Useful floating-point operations of a sweep: one 5x5 convolution from 32 to 64 maps, and its transpose."""
    return 2 * 2 * batch * 8 * 8 * 64 * 25 * 32


def backpropagation(net, inputs, targets):
    """Gradient of the feed-forward pass of the same weights."""

    @jax.jit
    def run(parameters):
        def loss(parameters):
            model = eqx.combine(parameters, eqx.filter(net, eqx.is_inexact_array, inverse=True))
            read = jax.vmap(lambda x: model.output(model.initial_state(x)))(inputs)
            return jnp.mean(jax.vmap(ep.CrossEntropy())(read, targets))

        return jax.grad(loss)(parameters)

    parameters = eqx.filter(net, eqx.is_inexact_array)
    return lambda: run(parameters)


def estimators(steps):
    """Rules on the network at rest."""
    tight = ep.EquilibriumPropagation(ep.symmetric(BETA), ep.BlockDescent(1e-5, 1e-6), chunk=RULE.chunk)
    loose = ep.BlockDescent(0.1, 1e-6)
    weak = ep.EquilibriumPropagation(
        ep.symmetric(0.01), ep.BlockDescent(5e-5, 1e-5), nudged_solver=loose, chunk=RULE.chunk
    )
    return {
        "equilibrium propagation": RULE,
        "equilibrium propagation, weak nudge": weak,
        "equilibrium propagation, settled tightly": tight,
        f"BPTT, {steps} steps": ep.BackpropagationThroughTime(ep.FixedPoint(1e-3, 1e-4), steps),
    }


def compiled(rule, net, inputs, targets):
    """One call of a rule as training makes it: within a compiled step."""
    parameters, rest = eqx.partition(net, eqx.is_inexact_array)
    devices = devices_for(PROCESSORS, len(targets))
    parameters, inputs, targets = on_all((parameters, inputs, targets), devices)

    @jax.jit
    def step(parameters, inputs, targets):
        system = eqx.combine(parameters, rest)
        estimate = estimate_shared(rule, devices, system, ep.CrossEntropy(), inputs, targets, None)
        steps = estimate.free.steps, None if estimate.nudged is None else estimate.nudged.steps
        return estimate.gradient, estimate.settled, steps

    return lambda: step(parameters, inputs, targets)


def scaling(repeats):
    """A step by equilibrium propagation and by backpropagation, for other sizes."""
    exact = ep.EquilibriumPropagation(ep.symmetric(0.01), ep.BlockDescent(1e-6, 1e-7))
    rows = {}
    for name, (batch, width, depth) in SCALING.items():
        net = network(jax.random.key(0), width, depth)
        task = pictures(batch)
        run = compiled(RULE, net, *task)
        rows[name] = {
            "equilibrium propagation": seconds(run, repeats),
            "backpropagation": seconds(backpropagation(net, *task), repeats),
            "cosine": cosine(run()[0], compiled(exact, net, *task)()[0]),
        }
    return rows


def memory(net, inputs, targets, steps):
    """Temporary memory of a compiled step that may take so many steps. [MB]"""
    parameters, rest = eqx.partition(net, eqx.is_inexact_array)
    nudged = ep.BlockDescent(0.1, 1e-6, max_steps=steps)
    rules = {
        "equilibrium propagation": ep.EquilibriumPropagation(
            ep.symmetric(BETA),
            ep.BlockDescent(1e-3, 1e-4, max_steps=steps),
            nudged_solver=nudged,
            chunk=RULE.chunk,
        ),
        "BPTT": ep.BackpropagationThroughTime(ep.FixedPoint(1e-3, 1e-4), steps),
    }
    found = {}
    for name, rule in rules.items():

        def run(parameters, inputs, targets, rule=rule):
            return rule(eqx.combine(parameters, rest), ep.CrossEntropy(), inputs, targets).gradient

        found[name] = memory_of(run, parameters, inputs, targets)
    return found


def torch_step(net, inputs, targets, *, beta=BETA, free=60, nudged=15, by_hand=False):
    """The same network in PyTorch's eager style: synchronous iterations, symmetric nudges, gradient of Phi.

    The drives are `torch.autograd`'s, of the scalar Phi, as code for papers has them; or written out `by_hand`, the
    convolution of the image found once.
    """
    import torch
    from torch.nn import functional

    def weights(array, order):
        return torch.tensor(np.asarray(array)).permute(order).contiguous()

    first, second = (weights(c.kernel, (3, 2, 0, 1)) for c in net.connections)
    lower, upper = (torch.tensor(np.asarray(b)) for b in net.biases)
    # Ours flattens row, column, feature; PyTorch's layout is feature, row, column.
    readout = weights(net.readout.weight.reshape(4, 4, 64, 10), (2, 0, 1, 3)).reshape(1024, 10)
    offset = torch.tensor(np.asarray(net.readout.bias))
    x = weights(inputs, (0, 3, 1, 2))
    y = functional.one_hot(torch.tensor(np.asarray(targets)).long(), 10).float()

    def phi(parameters, state):
        first, second, lower, upper, *_ = parameters
        drive = functional.max_pool2d(functional.conv2d(x, first, lower), 2)
        above = functional.max_pool2d(functional.conv2d(state[0], second, upper), 2)
        return (drive * state[0]).sum() + (above * state[1]).sum()

    def force(state):
        errors = torch.softmax(state[1].flatten(1) @ readout + offset, 1) - y
        return -(errors @ readout.T).reshape(state[1].shape)

    def differentiated(state, push, count, _drive):
        parameters = first, second, lower, upper
        for _ in range(count):
            state = [layer.detach().requires_grad_() for layer in state]
            total = phi(parameters, state) if push is None else phi(parameters, state) + (push * state[1]).sum()
            state = [torch.clamp(drive, 0, 1) for drive in torch.autograd.grad(total, state)]
        return state

    def written(state, push, count, drive):
        low, high = state
        for _ in range(count):
            maps = functional.conv2d(low, second, upper)
            pooled, places = functional.max_pool2d(maps, 2, return_indices=True)
            down = functional.conv_transpose2d(functional.max_unpool2d(high, places, 2), second)
            low, high = torch.clamp(drive + down, 0, 1), torch.clamp(pooled if push is None else pooled + push, 0, 1)
        return low, high

    def run():
        iterate = written if by_hand else differentiated
        with torch.set_grad_enabled(not by_hand):
            drive = functional.max_pool2d(functional.conv2d(x, first, lower), 2) if by_hand else None
            zero = torch.zeros(len(x), 32, 12, 12), torch.zeros(len(x), 64, 4, 4)
            rest = iterate(zero, None, free, drive)
            push = force(rest)
            ends = [iterate(rest, sign * beta * push, nudged, drive) for sign in (1, -1)]
        parameters = [p.detach().requires_grad_() for p in (first, second, lower, upper, readout, offset)]
        contrast = (phi(parameters, ends[1]) - phi(parameters, ends[0])) / (2 * beta * len(x))
        # The readout enters by the work of the constant force on the outputs.
        errors = torch.softmax(rest[1].flatten(1) @ readout + offset, 1) - y
        for sign, end in zip((0.5, 0.5), ends, strict=True):
            outputs = end[1].flatten(1) @ parameters[4] + parameters[5]
            contrast = contrast + sign * (errors * outputs).sum() / len(x)
        contrast.backward()
        return [p.grad for p in parameters]

    return run


def torch_gradient(net, gradients):
    """PyTorch's gradient as a tree like ours."""
    first, second, lower, upper, readout, offset = (jnp.asarray(g.numpy()) for g in gradients)
    kernels = first.transpose(2, 3, 1, 0), second.transpose(2, 3, 1, 0)
    weight = readout.reshape(64, 4, 4, 10).transpose(1, 2, 0, 3).reshape(1024, 10)

    def parts(tree):
        kernels = [c.kernel for c in tree.connections]
        return [*kernels, *tree.biases, tree.readout.weight, tree.readout.bias]

    parameters = eqx.filter(net, eqx.is_inexact_array)
    return eqx.tree_at(parts, parameters, [*kernels, lower, upper, weight, offset])


def measure(batch, steps, repeats, with_torch):
    """All figures, as they go into the JSON."""
    net = network(jax.random.key(0))
    inputs, targets = pictures(batch)
    limit, sweep = product_rate(repeats), sweep_seconds(net, inputs, repeats)
    truth = ep.BackpropagationThroughTime(ep.FixedPoint(1e-6, 1e-7), 150)(net, ep.CrossEntropy(), inputs, targets)
    step = backpropagation(net, inputs, targets)
    rows = {"backpropagation": {"seconds": seconds(step, repeats), "cosine": None}}
    for name, rule in estimators(steps).items():
        run = compiled(rule, net, inputs, targets)
        gradient, settled, taken = run()
        rows[name] = {
            "seconds": seconds(run, repeats),
            "cosine": cosine(gradient, truth.gradient),
            "settled": float(settled.mean()),
            "steps": [float(jnp.mean(count)) for count in taken if count is not None],
        }
    for style in ("autograd", "by hand") if with_torch else ():
        run = torch_step(net, inputs, targets, by_hand=style == "by hand")
        rows[f"PyTorch eager, 60 + 2 x 15, {style}"] = {
            "seconds": seconds(run, repeats),
            "cosine": cosine(torch_gradient(net, run()), truth.gradient),
        }
    rate = sweep_work(batch) / sweep / 1e9
    return {
        "batch": batch,
        "matrix_product_gflops": limit,
        "sweep": {"seconds": sweep, "gflops": rate, "of_limit": rate / limit},
        "steps": rows,
        "scaling": scaling(max(repeats // 2, 1)),
        "memory_mb": {t: memory(net, inputs, targets, t) for t in (5, 20, 40)},
    }


def plot(result, path):
    """Times of a step, and memory over the number of steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(result["steps"])
    left.barh(names, [1e3 * result["steps"][name]["seconds"] for name in names])
    left.set(xlabel=f"ms for a gradient of {result['batch']} pictures", xscale="log")
    lengths = list(result["memory_mb"])
    for name in result["memory_mb"][lengths[0]]:
        right.plot(lengths, [result["memory_mb"][t][name] for t in lengths], "o-", label=name)
    right.set(xlabel="steps T", ylabel="temporary memory of a step, MB", ylim=(0, None))
    right.legend()
    figure.savefig(path, dpi=150)


def main():
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60, help="steps of BPTT")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true", help="leave the PyTorch baseline out")
    arguments = parser.parse_args()
    result = measure(arguments.batch, arguments.steps, arguments.repeats, not arguments.no_torch)
    save(result, arguments.out, "conv")
    plot(result, arguments.out / "conv.png")
    sweep = result["sweep"]
    print(f"matrix product {result['matrix_product_gflops']:.0f} GFLOP/s")
    print(f"a sweep {1e3 * sweep['seconds']:.1f} ms, {sweep['gflops']:.0f} GFLOP/s, {100 * sweep['of_limit']:.0f} %")
    for name, row in result["steps"].items():
        angle = "" if row["cosine"] is None else f"   cosine {row['cosine']:.6f}"
        steps = "   " + " + ".join(f"{count:.1f}" for count in row["steps"]) + " steps" if "steps" in row else ""
        ratio = row["seconds"] / result["steps"]["equilibrium propagation"]["seconds"]
        print(f"{name:40s} {1e3 * row['seconds']:8.1f} ms, {ratio:5.2f} of EqProp{angle}{steps}")
    for name, row in result["scaling"].items():
        ours, theirs = row["equilibrium propagation"], row["backpropagation"]
        print(
            f"{name:40s} {1e3 * ours:8.1f} ms, {ours / theirs:5.1f} times backpropagation   cosine {row['cosine']:.6f}"
        )
    for length, row in result["memory_mb"].items():
        print(f"T = {length:3d}: " + ", ".join(f"{name} {value:.0f} MB" for name, value in row.items()))


if __name__ == "__main__":
    main()
