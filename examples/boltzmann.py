"""A restricted Boltzmann machine with a categorical output reads digits at T = 1, and knows how sure it is."""

import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import eqprop as ep
from eqprop.train.config import load_config


def main(folder: Path) -> float:
    """Train for four epochs, draw `boltzmann.svg`, and return the test accuracy."""
    config = load_config("digits-boltzmann", ["epochs=4"])
    experiment = config.build()
    fitted = ep.fit(experiment, epochs=config.epochs, batch_size=config.batch_size, key=jax.random.key(0))
    machine, (images, labels) = fitted.system, experiment.test
    sampler = ep.Gibbs(1.0, chains=8, burn_in=20, samples=40)

    @jax.jit
    def read(image, key):
        return ep.settle(machine, image, sampler, key=key, throw=False).expect(machine.output)

    chances = np.asarray(jax.vmap(read)(images, jax.random.split(jax.random.key(1), len(images))))
    labels = np.asarray(labels)
    unsure = np.argsort(chances.max(1))[:5]
    figure, axes = plt.subplots(2, 6, figsize=(9, 3.2), layout="constrained", width_ratios=[1.2, 1, 1, 1, 1, 1])
    fields = np.asarray(machine.weights[0])
    for unit, axis in enumerate(axes[:, 0]):
        axis.imshow(fields[:, unit].reshape(8, 8), cmap="RdBu", vmin=-abs(fields).max(), vmax=abs(fields).max())
        axis.set(xticks=[], yticks=[], title="a hidden spin")
    for column, example in enumerate(unsure, start=1):
        axes[0, column].imshow(np.asarray(images[example]).reshape(8, 8), cmap="gray_r")
        axes[0, column].set(xticks=[], yticks=[], title=f"a {labels[example]}")
        axes[1, column].bar(range(10), chances[example])
        axes[1, column].set(ylim=(0, 1), xticks=range(0, 10, 3), xlabel="answer")
    axes[1, 1].set_ylabel("probability")
    figure.savefig(folder / "boltzmann.svg", metadata={"Date": None})
    plt.close(figure)
    return float(np.mean(chances.argmax(1) == labels))


if __name__ == "__main__":
    print(f"test accuracy: {100 * main(Path(sys.argv[1] if len(sys.argv) > 1 else '.')):.1f} %")
