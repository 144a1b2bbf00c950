"""`Layer` in a larger model, against backpropagation through the unrolled relaxation."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest
from tests.systems import flat

import eqprop as ep
from eqprop.substrates.quantum import PauliHamiltonian

NETWORK = ep.LayeredHopfield([4, 7, 5], key=jax.random.key(0), activation=ep.Tanh())
SOLVER = ep.BlockDescent(rtol=1e-11, atol=1e-12)
X, LABELS = jax.random.normal(jax.random.key(2), (6, 3)), jnp.arange(6) % 3


class Model(eqx.Module):
    encoder: eqx.nn.Linear
    physics: eqx.Module
    readout: eqx.nn.Linear

    def __call__(self, x):
        return self.readout(self.physics(jax.nn.sigmoid(self.encoder(x))))


class Unrolled(eqx.Module):
    system: ep.System

    def __call__(self, x):
        state = self.system.initial_state(x)
        carry = SOLVER.init(self.system, x, state, {})

        def step(carried, _):
            state, _, carry = SOLVER.step(self.system, x, *carried)
            return (state, carry), None

        (state, _), _ = jax.lax.scan(step, (state, carry), length=60)
        return self.system.output(state)


def model(physics):
    keys = jax.random.split(jax.random.key(1), 2)
    return Model(eqx.nn.Linear(3, 4, key=keys[0]), physics, eqx.nn.Linear(5, 3, key=keys[1]))


@eqx.filter_jit
def loss(model, inputs):
    logits = jax.vmap(model)(inputs)
    return jnp.mean(jax.vmap(ep.CrossEntropy())(logits, LABELS))


def agree(ours, truth):
    ours, truth = flat(ours), flat(truth)
    assert jnp.linalg.norm(ours - truth) < 1e-3 * jnp.linalg.norm(truth)
    assert ours @ truth > 0.99999 * jnp.linalg.norm(ours) * jnp.linalg.norm(truth)


@pytest.mark.parametrize("stencil", [ep.symmetric(0.01), ep.one_sided(1e-4)])
def test_an_encoder_readout_model_gets_the_gradient_of_backpropagation(stencil):
    layer = ep.Layer(NETWORK, ep.EquilibriumPropagation(stencil, SOLVER))
    value, ours = eqx.filter_value_and_grad(loss)(model(layer), X)
    expected, truth = eqx.filter_value_and_grad(loss)(model(Unrolled(NETWORK)), X)
    assert jnp.allclose(value, expected, rtol=1e-10)
    agree(ours.physics.system, truth.physics.system)
    agree(ours.encoder, truth.encoder)
    agree(ours.readout, truth.readout)


def test_the_gradient_in_the_inputs():
    layer = ep.Layer(NETWORK, ep.EquilibriumPropagation(ep.symmetric(0.01), SOLVER))
    ours = jax.grad(lambda x: loss(model(layer), x))(X)
    truth = jax.grad(lambda x: loss(model(Unrolled(NETWORK)), x))(X)
    agree(ours, truth)


def test_a_zero_cotangent_is_a_zero_gradient():
    layer = ep.Layer(NETWORK, ep.EquilibriumPropagation(ep.symmetric(0.01), SOLVER))
    gradient = jax.grad(lambda x: 0 * layer(x).sum())(jnp.ones(4))
    assert (gradient == 0).all()


def test_a_layer_whose_free_phase_does_not_settle_raises():
    layer = ep.Layer(NETWORK, ep.EquilibriumPropagation(ep.symmetric(0.01), ep.BlockDescent(rtol=1e-12, max_steps=1)))
    with pytest.raises(Exception, match="Raise `max_steps`"):
        layer(jnp.ones(4))


def spins():
    model = ep.Ising(2, 4, [(0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (2, 5)], [4, 5], key=jax.random.key(0), gain=2.0)
    return model, ep.Enumeration(0.7), jnp.asarray([0.5, -1.0])


def oscillators():
    system = ep.OscillatorGraph(
        4, [(0, 1), (1, 2), (2, 3), (3, 0)], jnp.ones(4), driven=(0, 1), frequency=0.1 * jnp.arange(4.0), outputs=(2, 3)
    )
    return system, ep.Newton(rtol=1e-12, atol=1e-13), jnp.asarray([0.3, -0.4])


def quantum():
    terms, weights = [["ZZI"], ["IZZ"], ["XII"], ["IXI"], ["IIX"]], jnp.asarray([-1.0, -0.7, -0.8, -0.6, -0.9])
    system = PauliHamiltonian(3, terms, weights, ["ZII", "IXI"], input_terms=[["IZI"], ["IIZ"]])
    return system, ep.DenseEigen(), jnp.asarray([0.4, -0.2])


def learner():
    def loss(hyper, weights, data):
        return jnp.sum(jnp.cosh(weights - data)) + jnp.sum(jnp.exp(hyper) * weights**2)

    return (
        ep.InnerProblem(loss, jnp.zeros(2), jnp.zeros(2)),
        ep.Newton(rtol=1e-12, atol=1e-13),
        jnp.asarray([0.6, -1.0]),
    )


@pytest.mark.parametrize("family", [spins, oscillators, quantum, learner])
def test_every_kind_of_physics_is_a_layer(family):
    system, solver, x = family()
    weights = jnp.asarray([0.7, -1.1])

    def answer(system, x):
        return jnp.sum(weights * ep.settle(system, x, solver).expect(system.output))

    def layered(pair):
        return jnp.sum(weights * ep.Layer(pair[0], ep.EquilibriumPropagation(ep.symmetric(1e-2), solver))(pair[1]))

    vector, unravel = jax.flatten_util.ravel_pytree((system, x))
    along = jax.random.normal(jax.random.key(1), vector.shape)
    along, step = along / jnp.linalg.norm(along), 1e-4
    settled = jax.jit(lambda t: answer(*unravel(vector + t * along)))
    truth = float(settled(step) - settled(-step)) / (2 * step)
    gradient = flat(jax.jit(jax.grad(layered))((system, x)))
    assert float(gradient @ along) == pytest.approx(truth, rel=1e-3)
