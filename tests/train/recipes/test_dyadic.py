"""Feed-forward networks: one nudged phase of the doubled system beside backprop, by the same command."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from eqprop.train.config import load_config
from eqprop.train.data.sets import find
from eqprop.train.run import continue_run, new_run


def experiment(*changes):
    return load_config("digits-feedforward-dyadic", changes).build()


def test_the_rules_of_the_preset_estimate_one_gradient():
    batch = jax.tree.map(lambda leaf: leaf[:20], experiment().train)
    flat = {}
    for changes in (("recipe.rule=backprop",), ("recipe.nudge=mean",), ()):
        build = experiment(*changes)
        estimate = build.propagate(build.system, build.cost, *batch)
        assert estimate.settled.all()
        flat[changes] = np.asarray(jax.flatten_util.ravel_pytree(estimate.gradient)[0])

    # Backprop itself, without any system.
    def loss(network):
        outputs = jax.vmap(lambda x: network.initial_state(x)[-1])(batch[0])
        return -jnp.mean(jax.nn.log_softmax(outputs)[jnp.arange(20), batch[1]])

    truth = np.asarray(jax.flatten_util.ravel_pytree(jax.grad(loss)(experiment().system.field))[0])
    backprop, mean, dyads = flat.values()
    np.testing.assert_allclose(backprop, truth, atol=1e-13)
    np.testing.assert_allclose(mean, truth, atol=1e-8)
    assert dyads @ truth > 0.9999 * np.linalg.norm(dyads) * np.linalg.norm(truth)
    assert np.linalg.norm(dyads - truth) < 0.01 * np.linalg.norm(truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_doubled_system_learns_within_half_a_point_of_backprop(name, tmp_path):
    if name == "fashion" and find("fashion-mnist") is None:
        pytest.skip("Fashion-MNIST is not on this machine: `eqprop data fetch fashion-mnist`")
    errors = []
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for rule in ("one_phase", "backprop"):
            config = load_config(f"{name}-feedforward-dyadic", [f"recipe.rule={rule}"])
            run = continue_run(new_run(config, tmp_path)).run
            errors.append(run.metrics[-1]["test_error"])
    assert abs(errors[0] - errors[1]) <= 0.005, errors
    assert errors[0] < (0.04 if name == "digits" else 0.135)
