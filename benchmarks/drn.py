"""A training step of a deep resistive network, ours against the literature's way of computing it.

    taskset -c 0 python benchmarks/drn.py [--hidden 1024] [--repeats 20]

Ours is the step that `eqprop train drn-1h` makes: gather the batch, free phase, two nudged phases, gradient, update,
projection, counted in epochs of resident data. The other is PyTorch's eager mode on the same batch size and the same
equations: four sweeps of exact layer updates a phase, as published for one hidden layer, each layer's conductance sums
and currents in a call of their own, nudged phases by conductances, and the gradient of a crossbar as the mean over an
array (batch, row, column) of squared voltages. float32, on one processor, taking turns; medians; compilation apart.
Before anything is timed, one step of each from the same conductances must make the same change: in float64, both
settled to rounding and nudged by conductances. Prints the ratio, and writes `drn.json` to `benchmarks/results`; needs
PyTorch.

Source:
    B. Scellier, A fast algorithm to simulate nonlinear resistive networks, 2024.
"""

import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from _measure import options, save

import eqprop as ep
from eqprop.substrates.circuit.drn import DeepResistiveNetwork
from eqprop.train.config import load_config
from eqprop.train.fit import start, training
from eqprop.train.recipes.resistive import ResistiveRecipe

PRESET, BATCH, SWEEPS = "drn-1h", 4, 4


class Eager:
    """The literature's way: one Python call an operation, weight gradients as means over (batch, row, column)."""

    def __init__(self, network: DeepResistiveNetwork, beta: float, rate: float, *, sweeps: int = SWEEPS):
        self.conductances = [torch.tensor(np.asarray(g)) for g in network.conductances]
        self.currents = [torch.tensor(np.asarray(b)) for b in network.currents]
        self.gain, self.beta, self.rate, self.sweeps = network.input_gain, beta, rate, sweeps
        self.walls = [tuple(torch.tensor(np.array(w)) for w in pair) for pair in zip(*network.bounds(), strict=True)]

    def sweep(self, layers, beta, targets):
        """Layers in turn, odd ones first, each to its minimum given its neighbours."""
        last = len(self.currents)
        for k in (*range(1, last + 1, 2), *range(2, last + 1, 2)):
            current = layers[k - 1] @ self.conductances[k - 1] + self.currents[k - 1]
            total = self.conductances[k - 1].sum(0)
            if k < last:
                current = current + layers[k + 1] @ self.conductances[k].T
                total = total + self.conductances[k].sum(1)
            else:
                current, total = current + beta * targets, total + beta
            layers[k] = torch.minimum(torch.maximum(current / total, self.walls[k - 1][0]), self.walls[k - 1][1])

    def settle(self, layers, beta, targets):
        """So many sweeps from given layers."""
        layers = list(layers)
        for _ in range(self.sweeps):
            self.sweep(layers, beta, targets)
        return layers

    def gradients(self, layers):
        """Of the co-content, in conductances and bias currents, batch means."""
        drops = [before.unsqueeze(2) - after.unsqueeze(1) for before, after in itertools.pairwise(layers)]
        return [0.5 * (u**2).mean(0) for u in drops], [-after.mean(0) for after in layers[1:]]

    @torch.no_grad()
    def step(self, inputs, targets):
        """One training step."""
        x = torch.as_tensor(inputs)
        rest = [self.gain * torch.cat([x, -x], 1)] + [torch.zeros(len(x), len(b), dtype=x.dtype) for b in self.currents]
        free = self.settle(rest, 0.0, targets)
        plus, minus = (self.gradients(self.settle(free, beta, targets)) for beta in (self.beta, -self.beta))
        for values, up, down in zip((self.conductances, self.currents), plus, minus, strict=True):
            for value, u, d in zip(values, up, down, strict=True):
                value.add_(u - d, alpha=-self.rate / (2 * self.beta))
        for g in self.conductances:
            g.clamp_(min=0.0)


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and one-hot classes: MNIST where it is at hand, else as sparse and random."""
    try:
        from eqprop.train.data import load

        data = load("mnist")
        inputs, labels = data.train_inputs[:count].reshape(count, -1), data.train_targets[:count]
    except (OSError, ValueError):
        random = np.random.default_rng(0)
        inputs = random.uniform(size=(count, 784)) * (random.uniform(size=(count, 784)) < 0.2)
        labels = random.integers(0, 10, count)
    return inputs.astype(np.float32), np.eye(10, dtype=np.float32)[labels]


def experiment(hidden: int, data: tuple[np.ndarray, np.ndarray], *overrides: str) -> ep.Experiment:
    """The preset's experiment, on other data."""
    config = load_config(PRESET, overrides)
    assert isinstance(config.recipe, ResistiveRecipe)
    system = DeepResistiveNetwork([784, hidden, 10], key=jax.random.key(0), input_gain=config.recipe.input_gain)
    optimiser = config.optimiser.build(system, len(data[0]) // BATCH, config.epochs)
    inputs, targets = (jnp.asarray(part) for part in data)
    return ep.Experiment(system, ep.SquaredError(), config.recipe.estimator.build(), optimiser, (inputs, targets))


def difference(hidden: int) -> float:
    """One step of each from the same network: difference of the changes, over their size."""
    with jax.enable_x64(True):
        data = tuple(part.astype(float) for part in digits(BATCH))
        exact = ("recipe.estimator.nudge=cost", "recipe.estimator.solver.rtol=1e-12")
        ours = experiment(hidden, data, *exact)
        changed = ep.fit(ours, epochs=1, batch_size=BATCH, key=jax.random.key(1)).system
        assert isinstance(ours.system, DeepResistiveNetwork)
        assert isinstance(changed, DeepResistiveNetwork)
        eager = Eager(ours.system, 1.0, load_config(PRESET).optimiser.learning_rate, sweeps=12)
        eager.step(data[0], torch.tensor(data[1]))
        before = ours.system.conductances
        made, mine = (
            np.concatenate([np.ravel(np.asarray(g) - np.asarray(b)) for g, b in zip(after, before, strict=True)])
            for after in (eager.conductances, changed.conductances)
        )
    return float(np.linalg.norm(made - mine) / np.linalg.norm(made))


def main() -> None:
    """Measure, print, write."""
    parser = options(__doc__)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of ours in a repetition")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    apart = difference(arguments.hidden)
    assert apart < 1e-6, f"the two ways differ by {apart:.1e}: they do not compute the same step"
    data = digits(BATCH * arguments.steps)
    ours = experiment(arguments.hidden, data)
    epochs = training(ours, start(ours, jax.random.key(1)), epochs=arguments.repeats + 2, batch_size=BATCH)
    lasting = (moment.metrics for moment in epochs if moment.metrics is not None)
    assert isinstance(ours.system, DeepResistiveNetwork)
    eager = Eager(ours.system, 1.0, load_config(PRESET).optimiser.learning_rate)
    inputs, targets = data[0][:BATCH], torch.tensor(data[1][:BATCH])
    for _ in range(2):
        next(lasting)
        eager.step(inputs, targets)
    mine, theirs = [], []
    for _ in range(arguments.repeats):
        mine.append(next(lasting)["seconds"] / arguments.steps)
        began = time.perf_counter()
        eager.step(inputs, targets)
        theirs.append(time.perf_counter() - began)
    own, other = statistics.median(mine), statistics.median(theirs)
    shape = f"784-{arguments.hidden}-10"
    result = {"shape": shape, "batch": BATCH, "eqprop_ms": 1e3 * own, "eager_ms": 1e3 * other, "ratio": other / own}
    print(f"{shape}, batch {BATCH}: a step {1e3 * own:.2f} ms, eager {1e3 * other:.2f} ms: {other / own:.1f} times")
    save(result | {"difference_of_one_step": apart, "torch": torch.__version__}, arguments.out, "drn")


if __name__ == "__main__":
    main()
