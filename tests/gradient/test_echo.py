"""Echoes against backpropagation through time; refusals; constant memory; the formula that is wrong, and its repair."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from eqprop.cost import CrossEntropy, RunningCost, SquaredError
from eqprop.equilibrium import RESULT
from eqprop.gradient.bptt import BackpropagationThroughTime
from eqprop.gradient.echo import EchoPropagation
from eqprop.gradient.layer import Layer
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.stencil import Stencil, one_sided, richardson, symmetric
from eqprop.motion import EverySample, Hamiltonian, Pooled, Stack
from eqprop.settle.base import settle
from eqprop.settle.echo import Echo
from eqprop.settle.newton import Newton
from eqprop.settle.retrace import hamiltonian_of, honest_length, retrace, sharpness
from eqprop.settle.run import Run, run_batch
from eqprop.settle.stream import replay, run
from eqprop.substrates.trajectory import Oscillators, RecurrentHamiltonian, recurrent_stack
from eqprop.system import CostNudged, Forced


def flat(tree):
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])


def error(estimate, reference):
    found, true = flat(estimate.gradient), flat(reference.gradient)
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def oscillators(points=401, step=0.025, **options):
    """Four anharmonic oscillators over 10 s by default."""
    return Oscillators(4, key=jax.random.key(0), step=step, samples=points, anharmonic=0.3, **options)


def following(system, step=0.025):
    """A running cost of two examples: stay near small random positions."""
    inputs = jnp.zeros((2, 1))
    targets = 0.1 * jax.random.normal(jax.random.key(1), (2, system.samples, 4))
    return RunningCost(SquaredError(), step), inputs, targets


@pytest.mark.parametrize(("points", "step"), [(401, 0.025), (41, 0.25)])
def test_echo_equals_backpropagation_through_time_for_fine_and_coarse_steps(points, step):
    system = oscillators(points, step)
    cost, inputs, targets = following(system, step)
    truth = BackpropagationThroughTime(Run())(system, cost, inputs, targets)
    estimate = EchoPropagation(symmetric(1e-4))(system, cost, inputs, targets)
    assert error(estimate, truth) < 1e-7
    assert retrace(system, inputs[0]) < 1e-13
    for name in ("position", "momentum"):
        np.testing.assert_allclose(getattr(estimate.gradient, name), getattr(truth.gradient, name), rtol=1e-6)
    assert estimate.value == pytest.approx(float(truth.value), rel=1e-14)


def test_the_order_of_each_stencil():
    system = oscillators(201, 0.05)
    cost, inputs, targets = following(system)
    truth = BackpropagationThroughTime(Run())(system, cost, inputs, targets)
    for rule, first in ((one_sided, 2e-4), (symmetric, 4e-3), (richardson, 4e-2)):
        errors = [error(EchoPropagation(rule(b))(system, cost, inputs, targets), truth) for b in (first, first / 2)]
        assert abs(np.log2(errors[0] / errors[1]) - rule(0.1).order) < 0.15


def test_the_cost_s_own_nudge_and_the_stored_path_give_the_same():
    system = oscillators(101, 0.05)
    cost, inputs, targets = following(system)
    for nudge in (Forced, CostNudged):
        streamed = EchoPropagation(symmetric(1e-2), nudge)(system, cost, inputs, targets)
        stored = EquilibriumPropagation(symmetric(1e-2), Echo(), nudge)(system, cost, inputs, targets)
        assert stored.settled.all()
        np.testing.assert_allclose(flat(streamed.gradient), flat(stored.gradient), rtol=1e-9, atol=1e-12)


def test_a_stored_path_makes_its_action_stationary():
    system = RecurrentHamiltonian(2, 5, 3, key=jax.random.key(2), substeps=2, window=Pooled(2))
    drive = jax.random.normal(jax.random.key(3), (8, 2))
    path = settle(system, drive, Echo()).state
    slope = jax.grad(system.energy)(path, drive)
    # The last kick belongs to the end of the run: the momentum there is its boundary term.
    assert jnp.abs(slope.position[:-1]).max() < 1e-13
    assert jnp.abs(slope.momentum).max() < 1e-13
    np.testing.assert_allclose(slope.position[-1], -path.last, atol=1e-13)


@pytest.mark.parametrize("substeps", [1, 3])
def test_a_recurrent_network_that_classifies(substeps):
    system = RecurrentHamiltonian(2, 6, 3, key=jax.random.key(2), substeps=substeps, window=Pooled(2, last=True))
    inputs, labels = jax.random.normal(jax.random.key(3), (3, 12, 2)), jnp.array([0, 1, 2])
    truth = BackpropagationThroughTime(Run())(system, CrossEntropy(), inputs, labels)
    estimate = EchoPropagation(symmetric(1e-4), normalised=True)(system, CrossEntropy(), inputs, labels)
    assert error(estimate, truth) < 1e-7
    np.testing.assert_allclose(estimate.outputs, truth.outputs, rtol=1e-12)


def test_a_stack_learns_through_all_its_blocks():
    system = recurrent_stack(2, (6, 5), 3, key=jax.random.key(2), window=Pooled(2, last=True))
    inputs, labels = jax.random.normal(jax.random.key(3), (3, 20, 2)), jnp.array([0, 1, 2])
    truth = BackpropagationThroughTime(Run())(system, CrossEntropy(), inputs, labels)
    estimate = EchoPropagation(symmetric(1e-4))(system, CrossEntropy(), inputs, labels)
    assert error(estimate, truth) < 1e-7
    assert float(np.linalg.norm(flat(truth.gradient.blocks[0]))) > 0


class Encoded(Oscillators):
    """Oscillators whose drive and start are learned functions of the inputs."""

    def drive(self, inputs):
        return self.quartic[0] * inputs

    def begin(self, inputs):
        return self.position * inputs[0], self.momentum + inputs[-1]


def test_encoders_of_drive_and_start_are_learned():
    system = Encoded(4, key=jax.random.key(0), anharmonic=0.3, window=Pooled(1, last=True))
    inputs, targets = jax.random.normal(jax.random.key(3), (2, 30, 4)), jnp.ones((2, 2, 4))
    truth = BackpropagationThroughTime(Run())(system, SquaredError(), inputs, targets)
    assert error(EchoPropagation(symmetric(1e-4))(system, SquaredError(), inputs, targets), truth) < 1e-7
    stored = EquilibriumPropagation(symmetric(1e-4), Echo())(system, SquaredError(), inputs, targets)
    assert error(stored, truth) < 1e-7


def test_float32():
    system = oscillators()
    cost, inputs, targets = following(system)
    truth = BackpropagationThroughTime(Run())(system, cost, inputs, targets)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, system)
    propagate = EchoPropagation(symmetric(0.003))
    estimate = propagate(single, cost, inputs.astype(jnp.float32), targets.astype(jnp.float32))
    assert estimate.gradient.stiffness.dtype == jnp.float32
    assert error(estimate, truth) < 1e-3


def test_the_naive_formula_for_initial_values_is_wrong_and_what_repairs_it():
    """With both initial values held, a path nudged *forward* has a free end, and its boundary term does not vanish:

    dC/dtheta = d/dbeta int dL/dtheta dt + [d_beta p . d_theta q - d_theta p . d_beta q] at the end.
    """
    system = oscillators(401, 0.025)
    parameters, rest = eqx.partition(system, eqx.is_inexact_array)
    # Only what drives the motion is asked for, not the initial values.
    parameters = eqx.tree_at(lambda s: (s.position, s.momentum), parameters, (None, None))
    held = (system.position, system.momentum)
    values, unravel = jax.flatten_util.ravel_pytree(parameters)
    own = values
    targets = 0.1 * jax.random.normal(jax.random.key(1), (401, 4))

    def path(values, beta):
        """Positions, and position and momentum at the end, of the leapfrog under H - beta c, that is L + beta c."""
        model = eqx.tree_at(
            lambda s: (s.position, s.momentum), eqx.combine(unravel(values), rest), held, is_leaf=lambda x: x is None
        )
        ends = jnp.zeros(401, bool).at[jnp.array([0, -1])].set(True)
        kicks = jnp.where(ends, 0.0125, 0.025)
        force, velocity = jax.grad(lambda q: model.potential(q, None)), jax.grad(model.kinetic)

        def advance(point, here):
            position, momentum = point
            kick, target = here
            position = position + 0.025 * velocity(momentum)
            momentum = momentum - kick * force(position) + beta * 0.025 * (position - target)
            return (position, momentum), (position, momentum)

        first = held[1] - kicks[0] * force(held[0])
        (q, p), (positions, _) = jax.lax.scan(advance, (held[0], first), (kicks[1:], targets[1:]))
        return positions, q, p

    def cost(values):
        return 0.025 * 0.5 * jnp.sum((path(values, 0.0)[0] - targets[1:]) ** 2)

    def integral(values, beta):
        """Minus the time integral of H's explicit dependence on the parameters, along a path that is held."""
        positions = jnp.concatenate([held[0][None], path(own, beta)[0]])
        momenta = system.mass[None] * jnp.diff(positions, axis=0) / 0.025
        model = eqx.combine(unravel(values), rest)
        kicks = jnp.full(401, 0.025).at[jnp.array([0, -1])].mul(0.5)
        potential = jax.vmap(lambda q: model.potential(q, None))(positions)
        return -(0.025 * jnp.sum(jax.vmap(model.kinetic)(momenta)) + jnp.sum(kicks * potential))

    naive = jax.jacfwd(lambda beta: jax.grad(integral)(values, beta))(0.0)
    _, q_beta, p_beta = jax.jacfwd(lambda beta: path(values, beta))(0.0)
    _, q_theta, p_theta = jax.jacfwd(lambda v: path(v, 0.0))(values)
    exact = jax.grad(cost)(values)
    cosine = jnp.dot(naive, exact) / jnp.linalg.norm(naive) / jnp.linalg.norm(exact)
    assert cosine < 0.9
    repaired = naive + p_beta @ q_theta - q_beta @ p_theta
    assert jnp.linalg.norm(repaired - exact) / jnp.linalg.norm(exact) < 1e-7


def test_the_naive_formula_is_refused():
    with pytest.raises(ValueError, match="nudged phases take `Echo`"):
        system = oscillators(21, 0.1)
        cost, inputs, targets = following(system)
        EquilibriumPropagation(symmetric(1e-3), Run())(system, cost, inputs, targets)
    # Nor is a run a stationary path that a root finder could settle: nothing in the action holds its end.
    short = Oscillators(1, key=jax.random.key(0), samples=4)
    assert settle(short, jnp.zeros(1), Newton(), throw=False).result == RESULT.singular


def chaotic(samples):
    """Coupled quartic oscillators of large energy."""
    window = Pooled(1, last=True)
    system = Oscillators(3, key=jax.random.key(4), step=0.05, samples=samples, anharmonic=4.0, window=window)
    return eqx.tree_at(lambda s: s.position, system, 2.0 * jnp.ones(3) + jnp.arange(3.0))


def test_a_chaotic_run_is_refused_and_the_longest_honest_length_named():
    system = chaotic(20_000)
    inputs, targets = jnp.zeros((1, 1)), jnp.zeros((1, 2, 3))
    with pytest.raises(RuntimeError, match=r"longest honest length is \d+ of 20000 samples"):
        EchoPropagation(symmetric(1e-6))(system, SquaredError(), inputs, targets)
    length = honest_length(system, inputs[0], nudge=1e-6)
    assert 20 < length < 10_000
    short = chaotic(length // 8)
    estimate = EchoPropagation(symmetric(1e-8), normalised=True)(short, SquaredError(), inputs, targets)
    assert estimate.settled.all()
    assert settle(system, inputs[0], Echo(), throw=False).result == RESULT.not_retraced


def test_refused_examples_leave_the_others_untouched():
    system = Encoded(4, key=jax.random.key(0), anharmonic=0.3, window=Pooled(1, last=True))
    inputs = jax.random.normal(jax.random.key(3), (3, 40, 4)).at[1].mul(200.0)
    targets = jnp.ones((3, 2, 4))
    estimate = EchoPropagation(symmetric(1e-4))(system, SquaredError(), inputs, targets)
    assert list(np.asarray(estimate.settled)) == [True, False, True]
    alone = BackpropagationThroughTime(Run())(system, SquaredError(), inputs[::2], targets[::2])
    assert error(estimate, alone) < 1e-6


def test_a_step_too_large_for_stability_is_named():
    system = oscillators(200, 1.6)
    cost, inputs, targets = following(system)
    assert sharpness(system, None, system.position, system.momentum) > 2
    with pytest.raises(RuntimeError, match=r"became infinite|exceeds 2"):
        EchoPropagation(symmetric(1e-4))(system, cost, inputs, targets)
    harmonic = Oscillators(2, key=jax.random.key(0), step=1.5, samples=60)
    targets = jnp.zeros((1, 60, 2))
    with pytest.raises(RuntimeError, match="exceeds 2"):
        EchoPropagation(symmetric(1e-4))(harmonic, SquaredError(), inputs[:1], targets)


class Turning(Oscillators):
    """Says that other forces act, magnetic ones say."""

    reversible = False


def test_what_cannot_echo_is_refused():
    system = oscillators(21, 0.1)
    cost, inputs, targets = following(system)
    with pytest.raises(ValueError, match="declares that it is not reversible"):
        EchoPropagation(symmetric(1e-3))(Turning(4, key=jax.random.key(0), samples=21), cost, inputs, targets)
    with pytest.raises(ValueError, match="real stencil"):
        EchoPropagation(Stencil(jnp.array([0.1j]), jnp.array([-10j]), order=1))
    with pytest.raises(ValueError, match="`normalised` scales"):
        EchoPropagation(symmetric(0.1), CostNudged, normalised=True)
    with pytest.raises(ValueError, match="must be `Forced` or"):
        EchoPropagation(symmetric(0.1), nudge=lambda *a: None)
    with pytest.raises(ValueError, match="`RunningCost`, so that each"):
        EchoPropagation(symmetric(1e-3), CostNudged)(system, SquaredError(), inputs, targets)
    with pytest.raises(ValueError, match="is not one"):
        from eqprop.substrates.hopfield import LayeredHopfield

        hamiltonian_of(LayeredHopfield([2, 2], key=jax.random.key(0)))
    with pytest.raises(ValueError, match="all but the last need `EverySample`"):
        block = RecurrentHamiltonian(2, 3, 2, key=jax.random.key(0))
        Stack((block, block))
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        EchoPropagation(symmetric(1e-3))(system, cost, inputs.at[0].set(jnp.nan), targets)
    with pytest.raises(ValueError, match="use fewer pools"):
        short = oscillators(21, 0.1, window=Pooled(50))
        run(short, None, 21, jax.tree.map(lambda x: x[None], short.begin(None)))
    assert issubclass(Oscillators, Hamiltonian)
    assert isinstance(system.window, EverySample)


@pytest.mark.parametrize(("friction", "beta", "bar"), [(0.05, 1e-4, 2e-7), (0.3, 1e-4, 5e-6), (1.0, 1e-8, 1e-7)])
def test_friction_is_echoed_with_gain(friction, beta, bar):
    system = oscillators(101, 0.1, friction=friction)
    cost, inputs, targets = following(system, 0.1)
    truth = BackpropagationThroughTime(Run())(system, cost, inputs, targets)
    assert error(EchoPropagation(symmetric(beta))(system, cost, inputs, targets), truth) < bar
    if friction == 0.05:
        stored = EquilibriumPropagation(symmetric(beta), Echo(), CostNudged)(system, cost, inputs, targets)
        assert error(stored, truth) < 1e-6
    if friction == 1.0:
        # The same nudge as without friction is amplified 22,000 times.
        with pytest.raises(RuntimeError, match=r"makes the echo amplify by 2.2e\+04: beta must be smaller by as much"):
            EchoPropagation(symmetric(1e-4))(system, cost, inputs, targets)


def test_friction_beyond_precision_is_refused():
    system = oscillators(101, 0.1, friction=5.0)
    cost, inputs, targets = following(system, 0.1)
    with pytest.raises(ValueError, match=r"amplify by 5.2e\+21; above 5e\+12 rounding in float64 leaves no gradient"):
        EchoPropagation(symmetric(1e-4))(system, cost, inputs, targets)
    with pytest.raises(ValueError, match="`friction` must be a plain number, zero or positive"):
        oscillators(101, 0.1, friction=-1.0)


def test_a_damped_run_follows_its_closed_form():
    system = Oscillators(1, key=jax.random.key(0), friction=0.4, samples=2)
    frequency = float((system.stiffness[0, 0] / system.mass[0] - 0.2**2) ** 0.5)
    position, velocity = float(system.position[0]), float(system.momentum[0] / system.mass[0])
    time = 5.0
    swing = position * np.cos(frequency * time) + (velocity + 0.2 * position) / frequency * np.sin(frequency * time)
    exact = np.exp(-0.2 * time) * swing
    errors = []
    for samples in (101, 201):
        fine = Oscillators(1, key=jax.random.key(0), friction=0.4, samples=samples, step=time / (samples - 1))
        end = run(fine, None, samples, jax.tree.map(lambda leaf: leaf[None], fine.begin(None)))
        errors.append(abs(float(end.position[0, 0]) - exact))
    assert errors[0] < 1e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    "propagate",
    [
        EchoPropagation(symmetric(1e-4)),
        pytest.param(EchoPropagation(one_sided(1e-7)), marks=pytest.mark.slow),
        pytest.param(EquilibriumPropagation(symmetric(1e-4), Echo()), marks=pytest.mark.slow),
    ],
)
def test_a_layer_is_differentiable_in_system_and_inputs(propagate):
    system = RecurrentHamiltonian(2, 4, 3, key=jax.random.key(2), window=Pooled(2))
    inputs, pull = jax.random.normal(jax.random.key(3), (2, 10, 2)), jnp.array([1.0, -2.0, 0.5])
    layer = Layer(system, propagate)

    @eqx.filter_jit
    def both(layer, inputs):
        found = eqx.filter_grad(lambda both: jnp.sum(jax.vmap(both[0])(both[1]) @ pull))((layer, inputs))
        truth = eqx.filter_grad(lambda both: jnp.sum(run_batch(both[0], both[1])[1] @ pull))((system, inputs))
        return (found[0].system, found[1]), truth

    for found, true in zip(*both(layer, inputs), strict=True):
        np.testing.assert_allclose(flat(found), flat(true), rtol=1e-5, atol=1e-7)


def test_a_layer_of_a_stack_pulls_back_through_all_blocks():
    system = recurrent_stack(2, (4, 3), 3, key=jax.random.key(2), window=Pooled(1))
    inputs, pull = jax.random.normal(jax.random.key(3), (10, 2)), jnp.array([1.0, -2.0, 0.5])
    layer = Layer(system, EchoPropagation(symmetric(1e-4)))
    found = jax.jit(jax.grad(lambda x: jnp.dot(layer(x), pull)))(inputs)
    truth = jax.jit(jax.grad(lambda x: jnp.dot(run_batch(system, x[None])[1][0], pull)))(inputs)
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="nudged by its cotangent, a constant force"):
        Layer(system, EchoPropagation(symmetric(1e-4), CostNudged))


def test_memory_does_not_grow_with_the_run():
    sizes = {}
    for samples in (100, 100_000):
        system = Oscillators(3, key=jax.random.key(0), step=0.05, samples=samples, window=Pooled(1, last=True))

        def echo(position, momentum, system=system, samples=samples):
            end = run(system, None, samples, (position, momentum))
            back = replay(system, None, samples, end, None, jnp.ones((2, 4)))
            return eqx.filter(back.gathered.gradient, eqx.is_inexact_array), back.position

        lowered = jax.jit(echo).lower(jnp.ones((4, 3)), jnp.zeros((4, 3)))
        sizes[samples] = lowered.compile().memory_analysis().temp_size_in_bytes
    assert sizes[100_000] <= sizes[100] + 1024


@pytest.mark.slow
def test_a_hundred_thousand_steps_of_a_near_integrable_system():
    system = Oscillators(
        3, key=jax.random.key(0), step=0.05, samples=100_001, anharmonic=0.01, window=Pooled(4, last=True)
    )
    inputs, targets = jnp.zeros((1, 1)), jnp.zeros((1, 5, 3))
    truth = BackpropagationThroughTime(Run())(system, SquaredError(), inputs, targets)
    estimate = EchoPropagation(symmetric(1e-7))(system, SquaredError(), inputs, targets)
    assert estimate.settled.all()
    assert error(estimate, truth) < 1e-5
