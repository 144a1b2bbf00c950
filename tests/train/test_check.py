import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.train.check import check_system


class Springs(ep.System):
    """A chain of springs, slightly anharmonic; energy in J."""

    stiffness: jax.Array

    def energy(self, state, inputs):
        extension = jnp.diff(state, prepend=jnp.zeros(1))
        return jnp.sum(0.5 * self.stiffness * extension**2 + 0.1 * extension**4) - jnp.sum(inputs * state)

    def initial_state(self, inputs):
        return jnp.zeros(self.stiffness.shape)


class Unbounded(Springs):
    def energy(self, state, inputs):
        return -jnp.sum(self.stiffness * state**4 + state)


class Vector(Springs):
    def energy(self, state, inputs):
        return self.stiffness * state**2


class Random(Springs):
    def energy(self, state, inputs):
        return jnp.sum(self.stiffness * state**2) * np.random.default_rng().uniform(1, 2)


class OneWay(Springs):
    """A custom derivative that couples units in one direction only."""

    def energy(self, state, inputs):
        return _one_way(state) + jnp.sum(self.stiffness * state**2) - jnp.sum(inputs * state)


@jax.custom_jvp
def _one_way(state):
    return 0.0 * jnp.sum(state)


@_one_way.defjvp
def _one_way_jvp(primals, tangents):
    (state,), (tangent,) = primals, tangents
    return _one_way(state), jnp.sum(0.4 * jnp.roll(state, 1).at[0].set(0.0) * tangent)


@pytest.fixture
def inputs(getkey):
    return jax.random.normal(getkey(), (4, 3))


def test_a_good_system_is_right(inputs, getkey):
    result = check_system(Springs(jnp.array([1.0, 2.0, 1.5])), ep.SquaredError(), inputs, inputs + 0.3)
    assert result.ok, result.problems
    assert result.solver is not None
    assert result.asymmetry < 1e-7
    assert result.gradient_error < 1e-6
    assert result.certificate.cosine > 0.999999
    # The relative error of the symmetric rule is far below a thousandth at 0.01: a larger beta is advised.
    assert result.beta >= 0.01
    by_name = {trial.name: trial for trial in result.trials}
    assert by_name["Newton"].settled == 1
    assert by_name["Newton"].distance < 1e-6


def test_a_flipped_estimator_is_wrong(inputs):
    class Flipped(ep.EquilibriumPropagation):
        def __call__(self, *arguments, **options):
            estimate = super().__call__(*arguments, **options)
            gradient = jax.tree.map(jnp.negative, estimate.gradient)
            return type(estimate)(
                estimate.value, gradient, estimate.outputs, estimate.result, estimate.free, estimate.nudged
            )

    propagate = Flipped(ep.symmetric(0.01), ep.Newton())
    result = check_system(Springs(jnp.array([1.0, 2.0, 1.5])), ep.SquaredError(), inputs, inputs + 0.3, propagate)
    assert not result.ok


def test_an_energy_without_a_rest_state_is_wrong(inputs):
    result = check_system(Unbounded(jnp.ones(3)), ep.SquaredError(), inputs, inputs)
    assert not result.ok
    assert "No solver settles all examples" in result.problems[0]


def test_an_energy_that_is_a_vector_is_refused(inputs):
    with pytest.raises(ValueError, match=r"`Vector.energy` must return a scalar for one example; got shape \(3,\)"):
        check_system(Vector(jnp.ones(3)), ep.SquaredError(), inputs, inputs)


def test_a_random_energy_is_wrong(inputs):
    result = check_system(Random(jnp.ones(3)), ep.SquaredError(), inputs, inputs)
    assert any("The energy is random" in problem for problem in result.problems)


def test_a_coupling_in_one_direction_is_wrong(inputs):
    result = check_system(OneWay(jnp.ones(3)), ep.SquaredError(), inputs, inputs + 0.1)
    # J = 2 on the diagonal and 0.4 below it: of the coupling's own size, not of rounding.
    assert result.asymmetry > 0.01
    assert any("not reciprocal" in problem for problem in result.problems)


def test_a_system_without_parameters_is_wrong(inputs):
    class Fixed(ep.System):
        def energy(self, state, inputs):
            return 0.5 * jnp.sum((state - inputs) ** 2)

        def initial_state(self, inputs):
            return jnp.zeros_like(inputs)

    result = check_system(Fixed(), ep.SquaredError(), inputs, inputs + 1)
    assert any("no parameters" in problem for problem in result.problems)


def test_inputs_are_asked_for_where_they_are_needed(getkey):
    with pytest.raises(ValueError, match="needs inputs to be checked"):
        check_system(ep.LayeredHopfield([5, 3, 2], key=getkey()))
