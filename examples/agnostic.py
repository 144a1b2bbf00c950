"""A network whose energy nobody uses: its couplings are moved by the nudge, and read off the positions of springs.

Every parameter is a physical variable on a spring whose other end, the knob, is what is turned. Settled, nudged and
settled again, the parameters themselves move downhill; how far tells how to turn the knobs. Nothing of the energy is
differentiated by the learner.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import eqprop as ep

PATTERNS = jnp.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
ANSWERS = jnp.array([[-0.5], [0.5], [0.5], [-0.5]])
COMPLIANCE, BETA, RATE = 1e-2, 0.1, 0.1


def main(folder: Path) -> tuple[float, float]:
    """Learn XOR, draw `agnostic.svg`; return the largest error of an answer, and the error of the gradient read off."""
    unknown = ep.LayeredHopfield([2, 12, 1], key=jax.random.key(0), activation=ep.Tanh(), gain=1.0)
    system = ep.Agnostic(unknown, compliance=COMPLIANCE)
    # Both phases are settled closely: what is read is a difference of positions as small as compliance times beta.
    newton = ep.Newton(rtol=1e-4, atol=1e-6, max_steps=60)
    propagate = ep.EquilibriumPropagation(ep.symmetric(BETA), newton)

    @eqx.filter_jit
    def turn(system, start):
        estimate = propagate(system, ep.SquaredError(), PATTERNS, ANSWERS, start=start)
        up, down = (jax.tree.map(lambda leaf, k=k: leaf[k], estimate.nudged.state)[1] for k in range(2))
        # The parameters moved by -compliance * beta * gradient when nudged up, and back when nudged down.
        read = jax.tree.map(lambda u, d: -jnp.mean(u - d, axis=0) / (2 * BETA * COMPLIANCE), up, down)
        knobs = jax.tree.map(lambda knob, slope: knob - RATE * slope, system.knobs, read)
        return eqx.tree_at(lambda s: s.knobs, system, knobs), read, estimate

    costs, answers, error = [], [], None
    truth = ep.ImplicitDifferentiation(newton)(system, ep.SquaredError(), PATTERNS, ANSWERS).gradient
    start = jax.vmap(system.initial_state)(PATTERNS)
    for _ in range(150):
        system, read, estimate = turn(system, start)
        start = estimate.free.state  # the physics stays where it came to rest
        costs.append(float(estimate.value))
        answers.append(np.asarray(estimate.outputs)[:, 0])
        error = float(distance(read, truth.knobs)) if error is None else error
    return draw(folder, costs, answers), error


def distance(found, wanted):
    """Relative, over all parameters."""
    found, wanted = (jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (found, wanted))
    return jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted)


def draw(folder, costs, answers):
    """The picture; returns the largest error of an answer at the end."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.semilogy(costs)
    left.set(xlabel="turns of the knobs", ylabel="mean cost", title="XOR, the energy unknown")
    for pattern, line in zip(np.asarray(PATTERNS, int).tolist(), np.asarray(answers).T, strict=True):
        right.plot(line, label=str(tuple(pattern)))
    right.set(xlabel="turns of the knobs", ylabel="output at rest", title="Answers to the four patterns")
    right.legend(title="inputs", loc="upper left", ncols=2)
    figure.savefig(folder / "agnostic.svg", metadata={"Date": None})
    plt.close(figure)
    return float(np.abs(answers[-1] - np.asarray(ANSWERS)[:, 0]).max())


if __name__ == "__main__":
    worst, error = main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print(f"largest error of an answer: {worst:.3f}; relative error of the gradient read off: {error:.1e}")
