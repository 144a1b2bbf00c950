import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqprop as ep
from eqprop.settle.base import Solver
from eqprop.train.experiment import Experiment, wrong_class
from eqprop.train.fit import TrainingError, fit, start, training
from eqprop.train.measure import reads_units


class Bowl(ep.System):
    """State rests at offset + inputs; the best offset for targets = inputs + 1 is 1."""

    offset: jax.Array

    def energy(self, state, inputs):
        return 0.5 * jnp.sum((state - self.offset - inputs) ** 2)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


class Rooted(Bowl):
    """The derivative in `root` is 0/0 for inputs of zero, at a perfectly good rest state."""

    root: jax.Array

    def energy(self, state, inputs):
        return 0.5 * jnp.sum((state - self.offset - inputs) ** 2) + jnp.sqrt(self.root * inputs[0])


class Growing(ep.System):
    """Unbounded below: every settling diverges."""

    slope: jax.Array

    def energy(self, state, inputs):
        return -self.slope * jnp.sum(state**4 + state)

    def initial_state(self, inputs):
        return jnp.ones_like(inputs)


class Direct(Solver):
    """A bench that answers at once, outside JAX: it fails if it is traced."""

    host = True

    def solve(self, system, inputs, start, *, free, key):
        gradient = jax.grad(system.energy)(start, inputs)
        state = jnp.asarray(np.asarray(start) - np.asarray(gradient))
        return ep.Equilibrium(state, ep.RESULT.settled, jnp.zeros(()), jnp.asarray(1))


def bowl(getkey, *, solver=None, rate=0.5, **changes):
    inputs = jax.random.normal(getkey(), (24, 3))
    settings = {
        "system": Bowl(jnp.zeros(3)),
        "cost": ep.SquaredError(),
        "propagate": ep.EquilibriumPropagation(ep.symmetric(0.1), ep.GradientFlow(1.0) if solver is None else solver),
        "optimiser": optax.sgd(rate),
        "train": (inputs, inputs + 1),
        "test": (inputs[:7], inputs[:7] + 1),
    }
    return Experiment(**(settings | changes))


def test_the_loop_takes_the_steps_that_can_be_written_by_hand(getkey):
    # The gradient in the offset is offset - 1, so after n plain steps it is 1 - (1 - rate)**n.
    fitted = fit(bowl(getkey, rate=0.3), epochs=2, batch_size=5, key=getkey())
    np.testing.assert_allclose(fitted.system.offset, 1 - 0.7**8, rtol=1e-6)
    first, second = fitted.metrics
    assert [first["epoch"], second["epoch"]] == [1, 2]
    np.testing.assert_allclose(first["train_cost"], 1.5 * np.mean([0.7 ** (2 * n) for n in range(4)]), rtol=1e-6)
    np.testing.assert_allclose(second["test_cost"], 1.5 * 0.7**16, rtol=1e-5)
    assert first["unsettled"] == 0
    assert "train_error" not in first


def test_the_caller_keeps_his_system(getkey):
    experiment = bowl(getkey)
    fit(experiment, epochs=1, batch_size=5, key=getkey())
    np.testing.assert_array_equal(experiment.system.offset, 0)


def test_each_epoch_sees_each_example_at_most_once_in_a_new_order(getkey):
    experiment = bowl(getkey)
    seen = []

    class Spy(ep.SquaredError):
        def __call__(self, output, targets):
            jax.debug.callback(lambda y: seen.append(round(float(y), 9)), targets[0])
            return super().__call__(output, targets)

    fit(eqx.tree_at(lambda e: e.cost, experiment, Spy()), epochs=2, batch_size=24, key=getkey())
    jax.effects_barrier()
    assert set(seen) == {round(float(y), 9) for y in experiment.train[1][:, 0]}


@pytest.mark.parametrize("kind", ["host", "batches"])
def test_host_solvers_and_iterables_give_what_the_compiled_loop_gives(getkey, kind):
    key = getkey()
    if kind == "host":
        experiment = bowl(getkey, solver=Direct(), rate=0.3)
    else:
        inputs = np.random.default_rng(0).standard_normal((4, 5, 3))
        experiment = bowl(getkey, rate=0.3, train=[(x, x + 1) for x in inputs])
    fitted = fit(experiment, epochs=2, batch_size=5, key=key)
    np.testing.assert_allclose(fitted.system.offset, 1 - 0.7**8, rtol=1e-6)


def test_one_compilation_whatever_the_chunks_and_seeds(tiny_experiment, getkey):
    traces = []

    def counted(output, targets):
        traces.append(None)
        return wrong_class(output, targets)

    experiment = Experiment(
        **{name: getattr(tiny_experiment, name) for name in ("system", "cost", "propagate", "optimiser", "train")},
        wrong=counted,
    )
    fit(experiment, epochs=1, batch_size=10, key=getkey())
    once = len(traces)
    other = eqx.tree_at(lambda e: e.system.weights[0], experiment, 2 * experiment.system.weights[0])
    fit(other, epochs=2, batch_size=10, key=getkey())
    assert len(traces) == once


def test_too_many_unsettled_examples_stop_training_with_the_remedy(getkey):
    experiment = bowl(getkey, system=Growing(jnp.ones(())), solver=ep.GradientFlow(0.5, max_steps=50))
    with pytest.raises(TrainingError) as caught:
        fit(experiment, epochs=1, batch_size=5, key=getkey())
    assert "20 of 20 examples did not settle" in str(caught.value)
    assert "`max_unsettled` = 0.05" in str(caught.value)
    assert "diverged" in str(caught.value)
    assert "lower the step or the weights" in str(caught.value)


def test_unsettled_examples_below_the_limit_are_counted(getkey):
    experiment = bowl(getkey, solver=ep.GradientFlow(0.5, max_steps=3))
    fitted = fit(experiment, epochs=1, batch_size=5, key=getkey(), max_unsettled=1.0)
    assert fitted.metrics[0]["unsettled"] == 1


def test_a_gradient_that_is_not_finite_stops_training_before_it_is_used(getkey):
    inputs = np.ones((4, 5, 3))
    inputs[2] = 0
    experiment = bowl(getkey, rate=0.3, train=[(x, x + 1) for x in inputs], system=Rooted(jnp.zeros(3), jnp.ones(())))
    state, key = None, getkey()
    with pytest.raises(TrainingError, match="infinite or NaN in epoch 1, step 3, and training stopped before using it"):
        for moment in training(experiment, start(experiment, key), epochs=1, batch_size=5, max_unsettled=1.0):
            state = moment.state
    np.testing.assert_allclose(state.system.offset, 1 - 0.7**2, rtol=1e-6)


def test_a_batch_larger_than_the_data_is_refused(getkey):
    with pytest.raises(ValueError, match="`batch_size` = 25 is larger than the 24 training examples"):
        fit(bowl(getkey), epochs=1, batch_size=25, key=getkey())


def test_saturated_outputs_are_counted(getkey):
    network = ep.LayeredHopfield([3, 2], key=getkey(), output=ep.HardSigmoid())
    # One output is driven far above its upper wall, the other to its middle.
    network = eqx.tree_at(lambda n: (n.weights[0], n.biases[0]), network, (jnp.zeros((3, 2)), jnp.array([5.0, 0.5])))
    experiment = bowl(
        getkey,
        system=network,
        solver=ep.BlockDescent(),
        rate=0.0,
        train=(jnp.zeros((10, 3)), jnp.full((10, 2), 0.4)),
        test=None,
    )
    fitted = fit(experiment, epochs=1, batch_size=5, key=getkey())
    assert fitted.metrics[0]["saturated"] == 0.5


def test_only_bounded_coordinates_count_as_outputs_that_saturate(getkey):
    inputs = jnp.zeros(3)
    assert reads_units(ep.LayeredHopfield([3, 4, 2], key=getkey()), inputs)
    assert not reads_units(ep.LayeredHopfield([3, 4, 2], key=getkey(), softmax=True), inputs)
    assert not reads_units(Bowl(jnp.zeros(3)), inputs)
