"""Few-shot regression: from 12 pixels of a handwritten digit to all 64, by a learned start and pull of each weight.

The learner fits the cosine spectrum of one image to the pixels it sees; its task is one image. What is learned across
tasks is where the spectrum starts and how strongly each coefficient is held there.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import scipy.fft
import sklearn.datasets

import eqprop as ep
from eqprop.substrates.bilevel import quadratic_pull

SEEN = 12
BASIS = scipy.fft.idctn(np.eye(64).reshape(64, 8, 8), axes=(1, 2), norm="ortho").reshape(64, 64)


def fit_error(weights, data):
    """Half the summed squared error over the pixels of the data."""
    features, pixels = data
    return 0.5 * jnp.sum((jnp.dot(features, weights) - pixels) ** 2)


def inner_loss(hyper, weights, data):
    """What the learner minimises: the error on the pixels it sees, and the pull to the learned spectrum."""
    return fit_error(weights, data) + quadratic_pull(weights, hyper["start"], hyper["log_strength"])


def tasks(random, images):
    """For each image the pixels seen and the others."""
    seen, rest = [], []
    for image in images:
        order = random.permutation(64)
        for chosen, kept in ((order[:SEEN], seen), (order[SEEN:], rest)):
            kept.append((BASIS.T[chosen], image[chosen]))
    dtype = jnp.zeros(()).dtype
    return tuple(tuple(jnp.asarray(np.stack(part), dtype) for part in zip(*kept, strict=True)) for kept in (seen, rest))


def main(folder: Path) -> tuple[float, float]:
    """Train, draw `few_shot.svg`, and return the error per unseen pixel, before and after, on images not trained on."""
    images = sklearn.datasets.load_digits().data / 16
    random = np.random.default_rng(0)
    hyper = {"start": jnp.zeros(64), "log_strength": jnp.zeros(64)}
    system = ep.InnerProblem(inner_loss, hyper, lambda hyper: hyper["start"])
    solver = ep.Newton(rtol=1e-3, atol=1e-4)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.05), solver)
    cost, optimiser = ep.FunctionCost(fit_error), optax.adam(0.05)
    state = optimiser.init(system.hyper)
    seen, rest = tasks(random, images[1500:1600])
    evaluate = eqx.filter_jit(lambda system: jax.vmap(lambda x: ep.settle(system, x, solver, throw=False).state)(seen))

    def error(system):
        return float(jax.vmap(fit_error)(evaluate(system), rest).mean() * 2 / (64 - SEEN)) ** 0.5

    before, plain = error(system), evaluate(system)
    for _ in range(150):
        batch = tasks(random, images[random.integers(0, 1500, 20)])
        gradient = propagate(system, cost, *batch).gradient
        update, state = optimiser.update(gradient.hyper, state)
        system = eqx.tree_at(lambda s: s.hyper, system, jax.tree.map(jnp.add, system.hyper, update))
    after, learned = error(system), evaluate(system)
    figure, axes = plt.subplots(3, 6, figsize=(6, 3.2), layout="constrained")
    for k in range(6):
        pictures = (images[1500 + k], BASIS.T @ np.asarray(plain[k]), BASIS.T @ np.asarray(learned[k]))
        for axis, picture in zip(axes[:, k], pictures, strict=True):
            axis.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    for axis, label in zip(axes[:, 0], ("image", "untrained", "trained"), strict=True):
        axis.set_ylabel(label)
    figure.suptitle(f"64 pixels from {SEEN}: error {before:.2f} before, {after:.2f} after")
    figure.savefig(folder / "few_shot.svg", metadata={"Date": None})
    plt.close(figure)
    return before, after


if __name__ == "__main__":
    print(
        "error per unseen pixel: {:.3f} before, {:.3f} after".format(
            *main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
        )
    )
