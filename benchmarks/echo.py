"""What an echo costs: time against a forward run and against backpropagation through time, memory against length.

    python benchmarks/echo.py

Prints a table, and writes `echo.json` and `echo.svg` to `benchmarks/results`. Times are processor seconds of repeats
taken in turns (for one thread: `taskset -c 0`), ratios the medians of those within a round; memory is the compiled
program's own temporary memory, inputs and outputs excluded. The smallest and the largest size are those of the presets
for UCR series and for MNIST row by row.
"""

import time

import equinox as eqx
import jax
import numpy as np
from _measure import options, save

from eqprop.cost import CrossEntropy
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.stencil import one_sided, symmetric
from eqprop.motion import Pooled
from eqprop.settle.run import Run
from eqprop.settle.stream import run
from eqprop.substrates.trajectory import RecurrentHamiltonian

SIZES = ((10, 32), (32, 64), (100, 96))
"""Examples of a batch, and oscillators."""
LENGTHS = (100, 1_000, 10_000, 100_000)


def task(samples, batch=32, units=64):
    """A recurrent network under constant memory of inputs: channels of noise, ten classes."""
    system = RecurrentHamiltonian(4, units, 10, key=jax.random.key(0), window=Pooled(4, last=True))
    inputs = 0.3 * jax.random.normal(jax.random.key(1), (batch, samples, 4))
    return system, inputs, jax.random.randint(jax.random.key(2), (batch,), 0, 10)


def forward(system, inputs):
    """The free run alone."""
    drive, begin = jax.vmap(system.drive)(inputs), jax.vmap(system.begin)(inputs)
    return jax.vmap(system.readout)(run(system, drive, inputs.shape[1], begin).features)


def programs():
    """Name to a function of (system, inputs, labels) that gives arrays only."""

    def gradient(estimator):
        def call(system, inputs, labels):
            estimate = estimator(system, CrossEntropy(), inputs, labels)
            return eqx.filter(estimate.gradient, eqx.is_inexact_array), estimate.value

        return call

    return {
        "forward": lambda system, inputs, _labels: forward(system, inputs),
        "symmetric echo": gradient(EchoPropagation(symmetric(3e-3), normalised=True)),
        "one-sided echo": gradient(EchoPropagation(one_sided(3e-3), normalised=True)),
        "backpropagation": gradient(BackpropagationThroughTime(Run())),
    }


def times(batch, units, samples=200, repeats=25):
    """Processor seconds of each program in each of many rounds, the programs taken in turns."""
    arguments = task(samples, batch, units)
    compiled = {name: eqx.filter_jit(program) for name, program in programs().items()}
    for program in compiled.values():
        jax.block_until_ready(program(*arguments))
    taken = {name: [] for name in compiled}
    for _ in range(repeats):
        for name, program in compiled.items():
            began = time.process_time()
            jax.block_until_ready(program(*arguments))
            taken[name].append(time.process_time() - began)
    return {name: np.array(each) for name, each in taken.items()}


def over(taken, name):
    """All times in units of one of them: within each round, so that a busy machine slows both; then the median."""
    return {other: round(float(np.median(seconds / taken[name])), 3) for other, seconds in taken.items()}


def memory(samples, batch=2, units=16):
    """Temporary bytes of each program."""
    system, inputs, labels = task(samples, batch, units)
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    found = {}
    for name, program in programs().items():
        lowered = jax.jit(lambda p, x, y, program=program: program(eqx.combine(p, rest), x, y)).lower(
            parameters, inputs, labels
        )
        found[name] = int(lowered.compile().memory_analysis().temp_size_in_bytes)
    return found


def plot(results, path):
    """Memory against length."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    for name, marker in (("symmetric echo", "o"), ("backpropagation", "s")):
        axes.loglog(LENGTHS, [results["memory"][str(n)][name] for n in LENGTHS], marker=marker, label=name)
    axes.set_xlabel("samples in the run")
    axes.set_ylabel("working memory [bytes]")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    """Measure, print, plot, write."""
    arguments = options(__doc__).parse_args()
    taken = {f"{batch} examples, {units} oscillators": times(batch, units) for batch, units in SIZES}
    results = {
        "seconds": {size: {name: float(np.median(s)) for name, s in each.items()} for size, each in taken.items()},
        "forward runs": {size: over(each, "forward") for size, each in taken.items()},
        "backpropagations": {size: over(each, "backpropagation") for size, each in taken.items()},
        "memory": {str(samples): memory(samples) for samples in LENGTHS},
    }
    for size, row in results["forward runs"].items():
        print(f"{size:28s}", ", ".join(f"{name} {value:.2f}" for name, value in row.items()), "forward runs")
    for samples, row in results["memory"].items():
        print(f"{samples:>6s} samples", ", ".join(f"{name} {value / 1e3:.1f}" for name, value in row.items()), "kB")
    save(results, arguments.out, "echo")
    plot(results, arguments.out / "echo.svg")


if __name__ == "__main__":
    main()
