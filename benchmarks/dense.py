"""Dense networks measured: a whole EqProp gradient beside backpropagation and backpropagation through time.

Run `python benchmarks/dense.py`: prints a table, and writes `dense.json` and `dense.png` to `benchmarks/results`.
Backpropagation is that of the feed-forward net of the same shape; through time, of so many sweeps of the same network
(`--steps`). Compare ratios of one run, not times of different runs; the interleaved median of many calls is taken,
compilation apart. One thread: `taskset -c 0 python benchmarks/dense.py`. Beside each time stand the cosine with the
exact gradient, and the part of the time that its matrix products alone would take at the machine's rate. Networks have
weights U(±0.7/sqrt(fan-in)) and linear outputs, at initialisation and (`--trained EPOCHS`, with MNIST at hand) after
epochs of training. The PyTorch baseline is the literature's eager style: 20 free and 4 nudged Euler steps.
"""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _measure import cosine, medians, options, product_rate, save
from _measure import memory as memory_of

import eqprop as ep
from eqprop.train.config import load_config

SHAPES = [(784, 500, 10), (784, 512, 512, 10), (784, 500, 500, 500, 10)]
COST = ep.SquaredError()


def estimator(hidden: int) -> ep.EquilibriumPropagation:
    """What is timed for so many hidden layers: as loose as keeps the cosine above 0.99, trained or not.

    A trained network's errors are small: so is the nudge then, and what the free phase left undone must be smaller. In
    deep ones, more units meet a bound under a strong nudge.
    """
    beta, free, nudged = {1: (0.1, 3e-2, 0.2), 2: (0.02, 1e-3, 0.1), 3: (0.05, 1e-3, 0.1)}[hidden]
    solver = ep.BlockDescent(rtol=free, atol=1e-6)
    return ep.EquilibriumPropagation(ep.symmetric(beta), solver, nudged_solver=ep.BlockDescent(rtol=nudged))


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
    """The EqProp gradient, and what training looks at beside it: which examples settled, in how many sweeps."""
    estimate = estimator(len(network.weights) - 1)(network, COST, inputs, targets)
    return estimate.gradient, estimate.settled, (estimate.free.steps, estimate.nudged.steps)


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


def trained(shape, epochs):
    """A network of this shape after so many epochs on MNIST, with the settings of the preset `mnist-2h`."""
    slow = 'optimiser.rates={"weights.[1-9]" = 0.0003}'  # where the network feeds back
    config = load_config("mnist-2h", [f"recipe.hidden={list(shape[1:-1])}", slow, f"epochs={epochs}"])
    return ep.fit(config.build(), epochs=epochs, batch_size=config.batch_size, key=config.training_key()).system


@eqx.filter_jit
def through_time(network, inputs, targets, steps):
    """Backpropagation through so many sweeps, all differentiated."""
    solver = estimator(len(network.weights) - 1).solver
    return ep.BackpropagationThroughTime(solver, steps)(network, COST, inputs, targets)


def products(shape, batch, free, nudged):
    """Operations of the matrix products of a symmetric gradient of so many free and nudged sweeps."""
    first, *others = (2 * batch * pre * post for pre, post in pairwise(shape))
    # A sweep drives every layer from below and from above; that of the inputs is found once for all phases. Both nudged
    # phases share the inputs, whose weights are contrasted once; those between layers once a phase.
    return first + 2 * sum(others) * (free + 2 * nudged) + first + 2 * sum(others)


def against_backpropagation(epochs, repeats, steps):
    """A row for each shape, state and batch size."""
    rows, limit = [], product_rate(repeats)
    print(f"matrix product {limit:.0f} GFLOP/s; times over backpropagation's")
    for shape in SHAPES:
        network = ep.LayeredHopfield(shape, key=jax.random.key(0))
        states = [("initial", network)]
        if epochs:
            states.append((f"after {epochs} epochs", trained(shape, epochs)))
        for state, net in states:
            for batch in (20, 128):
                inputs, targets = digits(batch, seed=2)
                back, prop, through = medians(
                    [
                        lambda n=net, x=inputs, y=targets: backpropagation(n, x, y),
                        lambda n=net, x=inputs, y=targets: propagation(n, x, y),
                        lambda n=net, x=inputs, y=targets: through_time(n, x, y, steps).gradient,
                    ],
                    repeats,
                )
                gradient, settled, sweeps = propagation(net, inputs, targets)
                truth = eqx.filter_jit(exact())(net, COST, inputs, targets)
                free, nudged = (float(jnp.mean(count)) for count in sweeps)
                rows.append(
                    {
                        "shape": "-".join(map(str, shape)),
                        "state": state,
                        "batch": batch,
                        "backpropagation_ms": 1e3 * back,
                        "eqprop_ms": 1e3 * prop,
                        "through_time_ms": 1e3 * through,
                        "ratio": prop / back,
                        "through_time_ratio": through / back,
                        "cosine": cosine(gradient, truth.gradient),
                        "through_time_cosine": cosine(
                            through_time(net, inputs, targets, steps).gradient, truth.gradient
                        ),
                        "of_limit": products(shape, batch, free, nudged) / prop / 1e9 / limit,
                        "settled": float(jnp.mean(settled)),
                        "free_sweeps": free,
                        "nudged_sweeps": nudged,
                    }
                )
                print(
                    "{shape:>20} {state:>15} {batch:4d}  eqprop {ratio:5.2f} (cosine {cosine:.4f}, {free_sweeps:.1f} + "
                    "{nudged_sweeps:.1f} sweeps), through time {through_time_ratio:6.2f} (cosine "
                    "{through_time_cosine:.4f})".format(**rows[-1])
                    + f", products at the machine's rate {100 * rows[-1]['of_limit']:.0f} % of eqprop's time"
                )
    return rows, limit


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
            gradient = estimator(1)(eqx.combine(parameters, rest), COST, *batch).gradient
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
        times += medians([lambda n=network: propagation(n, inputs, targets)], repeats)
    weights = [784 * w + 10 * w for w in widths]
    exponent = float(np.polyfit(np.log(weights), np.log(times), 1)[0])
    print(f"cost against number of weights: exponent {exponent:.2f}")
    return {"weights": weights, "ms": [1e3 * t for t in times], "exponent": exponent}


def memory_against_sweeps():
    """Temporary memory of a compiled step for different limits on the number of sweeps. [MB]"""
    parameters, rest = eqx.partition(ep.LayeredHopfield(SHAPES[1], key=jax.random.key(0)), eqx.is_inexact_array)
    task = digits(128)

    def peak(rule):
        return memory_of(lambda p, *task: rule(eqx.combine(p, rest), COST, *task).gradient, parameters, *task)

    rows = {}
    for sweeps in (10, 30, 100):
        solver = ep.BlockDescent(rtol=0.0, atol=-1.0, max_steps=sweeps)
        rows[str(sweeps)] = {
            "equilibrium propagation": peak(ep.EquilibriumPropagation(ep.symmetric(0.02), solver)),
            "through time": peak(ep.BackpropagationThroughTime(solver, sweeps)),
        }
    print("memory of a step, MB: " + str(rows))
    return rows


def plot(result, path):
    """Ratios as bars; cost against weights and memory against sweeps as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = result["against_backpropagation"]
    places = np.arange(len(rows))
    for shift, key, name in ((-0.2, "ratio", "equilibrium propagation"), (0.2, "through_time_ratio", "through time")):
        left.barh(places + shift, [r[key] for r in rows], 0.4, label=name)
    left.set_yticks(places, [f"{r['shape']}, {r['state']}, batch {r['batch']}" for r in rows])
    left.set(xlabel="time over backpropagation's", xscale="log")
    left.invert_yaxis()
    middle.loglog(result["against_width"]["weights"], result["against_width"]["ms"], "o-")
    middle.set(xlabel="weights", ylabel="ms", title=f"exponent {result['against_width']['exponent']:.2f}")
    memory = result["memory_mb"]
    for name in ("equilibrium propagation", "through time"):
        right.loglog([int(n) for n in memory], [row[name] for row in memory.values()], "o-", label=name)
    right.set(xlabel="sweeps", ylabel="memory of a step, MB")
    for axes in (left, right):
        axes.legend()
    figure.savefig(path, dpi=150)


def main():
    """Measure, print, save."""
    parser = options(__doc__)
    parser.add_argument("--trained", type=int, default=0, help="also after so many epochs of MNIST")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20, help="sweeps of backpropagation through time")
    arguments = parser.parse_args()
    rows, limit = against_backpropagation(arguments.trained, arguments.repeats, arguments.steps)
    result = {
        "matrix_product_gflops": limit,
        "steps_through_time": arguments.steps,
        "against_backpropagation": rows,
        "against_torch": against_torch(arguments.repeats),
        "against_width": against_width(max(arguments.repeats // 3, 3)),
        "memory_mb": memory_against_sweeps(),
    }
    save(result, arguments.out, "dense")
    plot(result, arguments.out / "dense.png")


if __name__ == "__main__":
    main()
