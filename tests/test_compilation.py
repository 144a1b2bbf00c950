"""One compilation a run: what one may anneal does not retrace."""

import equinox as eqx
import jax
import jax.numpy as jnp

import eqprop as ep


def test_a_new_beta_or_new_weights_do_not_retrace():
    traces = 0

    class Counted(ep.SquaredError):
        def __call__(self, output, targets):
            nonlocal traces
            traces += 1
            return 0.5 * jnp.sum((output - targets) ** 2)

    network = ep.LayeredHopfield([3, 4, 2], key=jax.random.key(0))
    inputs, targets = jnp.ones((2, 3)), jnp.ones((2, 2))

    def run(network, beta):
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), ep.BlockDescent())
        return propagate(network, Counted(), inputs, targets).gradient

    run(network, 0.1)
    first = traces
    run(network, 0.2)
    run(eqx.tree_at(lambda n: n.weights[0], network, 2 * network.weights[0]), 0.3)
    assert traces == first


def test_memory_of_a_step_does_not_grow_with_the_sweeps():
    network = ep.LayeredHopfield([20, 50, 5], key=jax.random.key(0))
    inputs, targets = jnp.ones((8, 20)), jnp.ones((8, 5))

    def peak(max_steps):
        # A tolerance out of reach: all the steps are made.
        solver = ep.BlockDescent(rtol=0.0, atol=-1.0, max_steps=max_steps)
        propagate = ep.EquilibriumPropagation(ep.symmetric(0.1), solver)
        run = jax.jit(lambda n: eqx.filter(propagate(n, ep.SquaredError(), inputs, targets).gradient, eqx.is_array))
        return run.lower(network).compile().memory_analysis().temp_size_in_bytes

    assert peak(10) == peak(10_000)
