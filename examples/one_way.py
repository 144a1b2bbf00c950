"""How wrong the vector-field rule is where couplings are not symmetric, and the two exact ways, over the asymmetry."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import eqprop as ep
from eqprop.substrates.field_networks import AsymmetricNetwork


def main(folder: Path) -> tuple[float, float, float]:
    """Measure, draw `one_way.svg`, and return the errors of the three rules at full asymmetry."""
    network = AsymmetricNetwork(3, 12, 2, key=jax.random.key(0), gain=0.5)
    # Weak inputs leave tanh nearly linear: where it bends, the slope of the field is not symmetric with its weights.
    inputs, targets = (0.3 * jax.random.normal(jax.random.key(k), (4, n)) for k, n in ((1, 3), (2, 2)))
    cost, newton = ep.SquaredError(), ep.Newton(rtol=1e-5, atol=1e-6)
    # The network's own iteration settles it freely; Newton's method then follows the nudges from there.
    network_itself = ep.FixedPoint(rtol=1e-6, atol=1e-7)
    rules = {
        "vector-field rule": (
            ep.OneWay,
            ep.EquilibriumPropagation(ep.symmetric(0.1), network_itself, ep.FieldForced, newton),
        ),
        "antisymmetric force": (
            ep.OneWay,
            ep.EquilibriumPropagation(ep.symmetric(0.1), network_itself, ep.AntisymmetricForced, newton),
        ),
        "doubled, one phase": (ep.Doubled, ep.OnePhase(0.1, ep.DoubledFlow(step_size=0.7), ep.Dyads)),
    }
    symmetric, rest = 0.5 * (network.weight + network.weight.T), 0.5 * (network.weight - network.weight.T)
    mixtures, errors = np.linspace(0, 1, 9), {name: [] for name in rules}
    for mixture in mixtures:
        mixed = eqx.tree_at(lambda n: n.weight, network, symmetric + mixture * rest)
        truth = _flat(ep.ImplicitDifferentiation(network_itself)(ep.OneWay(mixed), cost, inputs, targets))
        for name, (kind, propagate) in rules.items():
            got = _flat(propagate(kind(mixed), cost, inputs, targets))
            errors[name].append(float(jnp.linalg.norm(got - truth) / jnp.linalg.norm(truth)))
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for name, values in errors.items():
        axes.semilogy(mixtures, values, ".-", label=name)
    axes.set(
        xlabel="antisymmetric part of the couplings", ylabel="relative error of the gradient", title="One-way couplings"
    )
    axes.legend()
    figure.savefig(folder / "one_way.svg", metadata={"Date": None})
    plt.close(figure)
    return tuple(values[-1] for values in errors.values())


def _flat(estimate):
    # Means over different examples are not to be compared.
    assert estimate.settled.all()
    return jax.flatten_util.ravel_pytree(eqx.filter(estimate.gradient, eqx.is_inexact_array))[0]


if __name__ == "__main__":
    found = main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("relative errors: vector-field {:.2g}, antisymmetric {:.2g}, doubled {:.2g}".format(*found))
