import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqprop as ep
from eqprop.train.optimise import OptimiserSettings, ScheduleSettings, bounded, non_negative, parameters_of


@pytest.fixture
def system(getkey):
    return ep.LayeredHopfield([3, 4, 2], key=getkey())


def _ones(system):
    return jax.tree.map(jnp.ones_like, eqx.filter(system, eqx.is_inexact_array))


def test_parameters_have_plain_names(system):
    assert list(parameters_of(system)) == ["weights.0", "weights.1", "biases.0", "biases.1"]


def test_rates_go_to_the_parameters_they_name(system):
    settings = OptimiserSettings(learning_rate=0.1, rates={"weights.1": 0.5, "biases.*": 0.0})
    optimiser = settings.build(system, 10, 2)
    parameters = eqx.filter(system, eqx.is_inexact_array)
    updates, _ = optimiser.update(_ones(system), optimiser.init(parameters), parameters)
    found = {name: float(leaf.ravel()[0]) for name, leaf in parameters_of(updates).items()}
    assert found == {"weights.0": -0.1, "weights.1": -0.5, "biases.0": 0.0, "biases.1": 0.0}


def test_a_rate_for_no_parameter_is_refused(system):
    with pytest.raises(
        ValueError, match=r"`optimiser.rates` names `weight.0`, which fits no parameter. There are: weights.0"
    ):
        OptimiserSettings(rates={"weight.0": 0.1}).build(system, 10, 2)


def test_another_rate_compiles_nothing_anew(system):
    traces = []

    @jax.jit
    def update(gradient, state, parameters):
        traces.append(None)
        return optimiser.update(gradient, state, parameters)

    parameters = eqx.filter(system, eqx.is_inexact_array)
    optimiser = OptimiserSettings(learning_rate=0.1).build(system, 10, 2)
    other = OptimiserSettings(learning_rate=0.3).build(system, 10, 2)
    update(_ones(system), optimiser.init(parameters), parameters)
    updates, _ = update(_ones(system), other.init(parameters), parameters)
    assert len(traces) == 1
    assert float(updates.biases[0][0]) == -0.3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "constant"}, [1, 1, 1, 1]),
        ({"kind": "exponential", "factor": 0.5}, [1, 1, 0.5, 0.25]),
        (
            {"kind": "cosine", "final": 0.2},
            [1, 0.2 + 0.4 * (1 + np.cos(np.pi / 6)), 0.2 + 0.4 * (1 + np.cos(np.pi / 3)), 0.6],
        ),
    ],
)
def test_schedules_at_known_steps(settings, expected):
    # 10 steps an epoch, 6 epochs in all.
    factor = ScheduleSettings(**settings).build(10, 6)
    steps = {"constant": [0, 9, 10, 59], "exponential": [0, 9, 10, 20], "cosine": [0, 10, 20, 30]}[settings["kind"]]
    np.testing.assert_allclose([float(factor(jnp.asarray(step))) for step in steps], expected, rtol=1e-6)


def test_adam_is_optax_adam(system):
    parameters = eqx.filter(system, eqx.is_inexact_array)
    ours, theirs = OptimiserSettings(kind="adam", learning_rate=0.01).build(system, 10, 2), optax.adam(0.01)
    states = [ours.init(parameters), theirs.init(parameters)]
    for scale in (1.0, -0.3):
        gradient = jax.tree.map(lambda one, scale=scale: scale * one, _ones(system))
        updates = []
        for index, rule in enumerate((ours, theirs)):
            with jax.numpy_dtype_promotion("standard"):
                update, states[index] = rule.update(gradient, states[index], parameters)
            updates.append(update)
        assert eqx.tree_equal(*updates, rtol=1e-12)


def test_bounds_hold_and_leave_others_alone(system):
    optimiser = optax.chain(optax.scale(-10.0), bounded(-0.2, 0.3, "weights.*"))
    parameters = eqx.filter(system, eqx.is_inexact_array)
    updates, _ = optimiser.update(_ones(system), optimiser.init(parameters), parameters)
    after = parameters_of(eqx.apply_updates(system, updates))
    np.testing.assert_allclose(after["weights.0"], -0.2, rtol=1e-12)
    np.testing.assert_allclose(after["biases.0"], -10.0)


def test_non_negative_reaches_zero_exactly():
    conductance = jnp.array([0.1, 2.0, 1e-9])
    rule = non_negative()
    updates, _ = rule.update(-jnp.ones(3), rule.init(conductance), conductance)
    np.testing.assert_array_equal(optax.apply_updates(conductance, updates), [0.0, 1.0, 0.0])


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match=r"`lower` = 1.0 must be less than `upper` = 0.0"):
        bounded(1.0, 0.0)
    with pytest.raises(ValueError, match=r"needs the parameters"):
        bounded(0.0, 1.0).update(jnp.ones(2), optax.EmptyState(), None)
