"""Paths of least action: exact paths, gradients at saddles of the action, each kind of end, refusals."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from eqprop.cost import RunningCost, SquaredError
from eqprop.equilibrium import RESULT
from eqprop.gradient.propagation import EquilibriumPropagation
from eqprop.gradient.reference import ImplicitDifferentiation
from eqprop.gradient.stencil import symmetric
from eqprop.settle.base import settle
from eqprop.settle.descent import GradientFlow
from eqprop.settle.newton import Newton
from eqprop.settle.path import PathNewton, block_factor, block_hessian, block_solve, follow
from eqprop.substrates.trajectory import FixedEnds, GivenEnds, Lagrangian, NaturalEnds, Path, Periodic, shoot, shot
from eqprop.system import CostNudged, Forced


class Oscillators(Lagrangian):
    """Coupled anharmonic oscillators under a force."""

    mass: Float[Array, " mass"]
    spring: Float[Array, "mass mass"]
    quartic: Float[Array, " mass"]
    dimension: int = eqx.field(static=True)

    def __call__(self, position, velocity, time, drive):
        kinetic = 0.5 * jnp.sum(self.mass * velocity**2)
        potential = 0.5 * position @ self.spring @ position + 0.25 * jnp.sum(self.quartic * position**4)
        return kinetic - potential + (0.0 if drive is None else jnp.sum(drive * position))


class Kepler(Lagrangian):
    """A radius that must stay positive."""

    mass: Float[Array, ""]
    dimension: int = eqx.field(static=True, default=1)

    def __call__(self, position, velocity, time, drive):
        return 0.5 * self.mass * jnp.sum(velocity**2) + jnp.sum(1 / position)

    def domain(self):
        return (0.0,), (float("inf"),)


def oscillators(dimension=3, quartic=0.15, seed=0):
    rng = np.random.default_rng(seed)
    coupling = rng.normal(size=(dimension, dimension)) * 0.2
    spring = np.diag(np.linspace(1.0, 2.5, dimension)) + (coupling + coupling.T) / 2
    return Oscillators(
        jnp.asarray(rng.uniform(0.8, 1.2, dimension)), jnp.asarray(spring), jnp.full(dimension, quartic), dimension
    )


def error(estimate, reference):
    flat = [jax.flatten_util.ravel_pytree(e.gradient)[0] for e in (estimate, reference)]
    return float(jnp.linalg.norm(flat[0] - flat[1]) / jnp.linalg.norm(flat[1]))


EXACT = PathNewton(rtol=1e-11, atol=1e-13)
TRUTH = ImplicitDifferentiation(Newton(rtol=1e-12, atol=1e-13))


def problem(ends, steps=60, duration=3.7, **options):
    """A system, its cost, a batch of two drives, and targets."""
    rng = np.random.default_rng(1)
    system = Path(oscillators(), ends, steps=steps, duration=duration, **options)
    time = np.linspace(0, 1, steps + 1)[None, :, None]
    drive = 0.5 * np.sin(2 * np.pi * time * np.array([1, 2, 1])) * rng.normal(size=(2, 1, 3))
    targets = rng.normal(size=(2, len(system.times), len(system.coordinates))) * 0.1
    return system, RunningCost(SquaredError(), system.weights()), jnp.asarray(drive), jnp.asarray(targets)


def test_a_free_oscillator_follows_its_closed_form():
    frequency = 1.3
    system = Path(
        Oscillators(jnp.ones(1), jnp.full((1, 1), frequency**2), jnp.zeros(1), 1),
        FixedEnds(0.2, -0.5), steps=400, duration=2.0,
    )  # fmt: skip
    path = settle(system, None, EXACT).state[:, 0]
    time = np.arange(1, 400) * system.step
    # The discrete solution is a sine of the discrete frequency, sin(w h / 2) = frequency h / 2.
    discrete = 2 / system.step * np.arcsin(frequency * system.step / 2)
    exact = (0.2 * np.sin(discrete * (2.0 - time)) - 0.5 * np.sin(discrete * time)) / np.sin(discrete * 2.0)
    np.testing.assert_allclose(path, exact, atol=1e-11)


def test_block_elimination_is_the_dense_solution():
    for ends in (FixedEnds([0.1] * 3, [0.2] * 3), Periodic()):
        system, _, drive, _ = problem(ends)
        state = settle(system, drive[0], EXACT).state
        right = jnp.asarray(np.random.default_rng(2).normal(size=state.shape))

        @jax.jit
        def by_blocks(system, state):
            blocks = block_hessian(lambda path: jax.grad(system.energy)(path, drive[0]), state, system.closed)
            return blocks.apply(right).ravel(), block_solve(block_factor(blocks), right[..., None])[..., 0].ravel()

        image, solution = by_blocks(system, state)
        dense = np.asarray(jax.jit(jax.hessian(system.energy))(state, drive[0])).reshape(state.size, state.size)
        np.testing.assert_allclose(image, dense @ right.ravel(), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(solution, np.linalg.solve(dense, np.ravel(right)), atol=1e-11)


def test_gradient_at_a_saddle_of_the_action_and_its_order():
    system, cost, drive, targets = problem(FixedEnds([0.6, -0.4, 0.3], [-0.5, 0.2, 0.7]))
    state = settle(system, drive[0], EXACT).state
    hessian = jax.jit(jax.hessian(system.energy))(state, drive[0])
    negative = np.linalg.eigvalsh(hessian.reshape(state.size, -1)) < 0
    assert 3 <= negative.sum() < 50
    reference = TRUTH(system, cost, drive, targets)
    betas = [0.2, 0.1, 0.05]
    errors = [
        error(EquilibriumPropagation(symmetric(b), EXACT, nudge=CostNudged)(system, cost, drive, targets), reference)
        for b in betas
    ]
    assert errors[-1] < 5e-3
    assert abs(np.polyfit(np.log(betas), np.log(errors), 1)[0] - 2) < 0.15


@pytest.mark.parametrize(
    ("ends", "nudge"),
    [
        pytest.param(Periodic(), CostNudged, marks=pytest.mark.slow),
        (NaturalEnds(first=[0.1, 0.2, 0.3], end_energy=lambda q: 0.5 * jnp.sum(q**2)), Forced),
        pytest.param(NaturalEnds(), CostNudged, marks=pytest.mark.slow),
        pytest.param(FixedEnds([0.6, -0.4, 0.3], [-0.5, 0.2, 0.7]), Forced, marks=pytest.mark.slow),
    ],
)
def test_gradient_with_every_kind_of_end(ends, nudge):
    system, cost, drive, targets = problem(ends)
    estimate = EquilibriumPropagation(symmetric(3e-4), EXACT, nudge=nudge)(system, cost, drive, targets)
    assert estimate.settled.all()
    assert error(estimate, TRUTH(system, cost, drive, targets)) < 1e-5


def test_static_limit_gives_the_gradient_of_the_static_energy():
    lagrangian, force = oscillators(), jnp.array([0.4, -0.3, 0.2])
    rest = jnp.zeros(3)
    for _ in range(30):  # Newton on the static balance of forces
        slope = lagrangian.spring @ rest + lagrangian.quartic * rest**3 - force
        rest = rest - jnp.linalg.solve(lagrangian.spring + jnp.diag(3 * lagrangian.quartic * rest**2), slope)
    target = jnp.array([0.1, 0.0, 0.3])

    def static_cost(spring, quartic):
        curvature = spring + jnp.diag(3 * quartic * rest**2)
        moved = rest - jnp.linalg.solve(jax.lax.stop_gradient(curvature), spring @ rest + quartic * rest**3 - force)
        return 0.5 * jnp.sum((moved - target) ** 2)

    exact = jax.grad(static_cost, argnums=(0, 1))(lagrangian.spring, lagrangian.quartic)
    system = Path(lagrangian, NaturalEnds(), steps=40, duration=2.9)
    drive = jnp.broadcast_to(force, (1, 41, 3))
    targets = jnp.broadcast_to(target, (1, 41, 3))
    cost = RunningCost(SquaredError(), system.weights() / 2.9)
    gradient = EquilibriumPropagation(symmetric(1e-3), EXACT)(system, cost, drive, targets).gradient.lagrangian
    np.testing.assert_allclose(gradient.spring, (exact[0] + exact[0].T) / 2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradient.quartic, exact[1], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_given_ends_deliver_their_own_gradient():
    system, cost, drive, targets = problem(GivenEnds())
    inputs = {"first": jnp.array([[0.6, -0.4, 0.3]]), "last": jnp.array([[-0.5, 0.2, 0.7]]), "drive": drive[:1]}
    estimate = EquilibriumPropagation(symmetric(1e-3), EXACT)(system, cost, inputs, targets[:1])
    assert error(estimate, TRUTH(system, cost, inputs, targets[:1])) < 1e-5


def test_shots_obey_the_discrete_equations_and_shooting_meets_the_end():
    system, _, drive, _ = problem(FixedEnds([0.6, -0.4, 0.3], [-0.5, 0.2, 0.7]))
    flight = shot(system, drive[0], jnp.array([0.6, -0.4, 0.3]), jnp.zeros(3))
    inner = jax.grad(lambda path: jnp.sum(system.link_actions(path, drive[0])))(flight)[1:-1]
    assert jnp.abs(inner).max() < 1e-12
    start = shoot(system, drive[0])
    settled = settle(system, drive[0], EXACT, start=start)
    assert settled.steps <= 3
    np.testing.assert_allclose(settled.state, start, atol=1e-8)


def test_continuation_in_the_duration():
    ends, lagrangian = FixedEnds([0.6, -0.4, 0.3], [-0.5, 0.2, 0.7]), oscillators()
    paths = [Path(lagrangian, ends, steps=60, duration=t) for t in (0.5, 0.75, 1.0)]
    reached = follow(paths, None, EXACT)
    assert reached.settled
    slope = jax.jit(jax.grad(paths[-1].energy))(reached.state, None)
    assert jnp.abs(slope).max() < 1e-10


def test_weights_integrate_the_cost_over_time():
    fixed, natural, periodic = (
        Path(oscillators(), ends, steps=10, duration=2.0).weights()
        for ends in (FixedEnds([0.0] * 3, [0.0] * 3), NaturalEnds(), Periodic())
    )
    np.testing.assert_allclose(fixed, np.full(9, 0.2))
    np.testing.assert_allclose(natural, [0.1] + [0.2] * 9 + [0.1])
    np.testing.assert_allclose(periodic, np.full(10, 0.2))
    sampled = Path(oscillators(), Periodic(), steps=10, duration=2.0, times=(0, 5)).weights()
    np.testing.assert_allclose(sampled, [1.0, 1.0])


def single(ends, duration, steps=60):
    return Path(Oscillators(jnp.ones(1), jnp.ones((1, 1)), jnp.zeros(1), 1), ends, steps=steps, duration=duration)


def test_a_conjugate_point_is_refused():
    eq = settle(single(FixedEnds(0.1, 0.3), np.pi), None, PathNewton(), throw=False)
    assert eq.result == RESULT.singular
    assert "conjugate point" in RESULT[RESULT.singular]
    assert settle(single(FixedEnds(0.1, 0.3), 3.0), None, PathNewton(), throw=False).settled
    with pytest.raises(RuntimeError, match="duration"):
        settle(single(FixedEnds(0.1, 0.3), np.pi), None, PathNewton())


def test_a_saddle_of_the_action_is_not_found_by_going_downhill():
    system = single(FixedEnds(0.1, 0.3), 4.0, steps=12)
    path = settle(system, None, PathNewton())
    assert np.linalg.eigvalsh(jax.jit(jax.hessian(system.energy))(path.state, None).reshape(11, 11)).min() < 0
    near = path.state + 1e-3
    assert settle(system, None, PathNewton(), start=near).steps <= 3
    assert not settle(system, None, GradientFlow(0.1, max_steps=500), start=near, throw=False).settled


class Pendulum(Lagrangian):
    """A pendulum in units of its own frequency."""

    inertia: Float[Array, ""]
    dimension: int = eqx.field(static=True, default=1)

    def __call__(self, position, velocity, time, drive):
        return 0.5 * self.inertia * jnp.sum(velocity**2) + jnp.cos(position[0])


def test_an_autonomous_periodic_path_needs_a_pin():
    steps, duration = 48, 8.0  # longer than the small swing's 2 pi: an orbit of finite amplitude
    start = jnp.asarray(1.7 * np.sin(2 * np.pi * np.arange(steps) / steps))[:, None]
    loose = Path(Pendulum(jnp.ones(())), Periodic(), steps=steps, duration=duration)
    assert settle(loose, None, PathNewton(), start=start, throw=False).result == RESULT.singular
    assert "pin" in RESULT[RESULT.singular]
    pinned = Path(Pendulum(jnp.ones(())), Periodic(pin=(0, 0.0)), steps=steps, duration=duration)
    orbit = settle(pinned, None, EXACT, start=start)
    assert orbit.state[0, 0] == 0
    assert 1.5 < jnp.abs(orbit.state).max() < 2.5
    propagate = EquilibriumPropagation(symmetric(1e-4), EXACT)
    begin, targets = start[None], jnp.full((1, steps, 1), 0.3)
    estimate = propagate(pinned, SquaredError(), jnp.zeros((1, steps)), targets, start=begin)
    reference = TRUTH(pinned, SquaredError(), jnp.zeros((1, steps)), targets, start=orbit.state[None])
    assert estimate.settled.all()
    assert error(estimate, reference) < 1e-5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FixedEnds(jnp.ones(1), 0.0), "must not be trained"),
        (lambda: FixedEnds(np.inf, 0.0), "must be finite"),
        (lambda: Periodic(pin=(0, jnp.ones(()))), "must not be trained"),
        (lambda: Periodic(pin=(0, [1.0, 2.0])), "one coordinate at one value; got 2 values for coordinate 0"),
        (lambda: Periodic(pin=0.3), "must be .number of the coordinate"),
        (lambda: single(FixedEnds([0.0, 1.0], [0.0, 1.0]), 1.0), "has 2 numbers; the Lagrangian has 1"),
        (lambda: single(FixedEnds(0.0, 1.0), -1.0), "`duration` must be a positive"),
        (lambda: single(FixedEnds(0.0, 1.0), jnp.ones(())), "is not trained"),
        (lambda: single(FixedEnds(0.0, 1.0), 1.0, steps=2), "`steps` must be at least 3"),
        (lambda: Path(Kepler(jnp.ones(())), FixedEnds(-1.0, 1.0), steps=9, duration=1.0), "outside the domain"),
        (lambda: Path(oscillators(), Periodic(pin=(7, 0.0)), steps=9, duration=1.0), "names coordinate 7"),
        (lambda: Path(oscillators(), Periodic(), steps=9, duration=1.0, coordinates=(3,)), "`coordinates` must lie"),
        (
            lambda: Path(oscillators(), FixedEnds([0.0] * 3, [0.0] * 3), steps=9, duration=1.0, times=(0,)),
            "must name free points, 1 to 8",
        ),
    ],
)
def test_what_cannot_be_a_path_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_solver_and_drive_must_fit():
    with pytest.raises(ValueError, match="one entry for each of the 61 points"):
        settle(single(FixedEnds(0.1, 0.3), 1.0), jnp.zeros((5, 1)), PathNewton())
    from eqprop.substrates.hopfield import LayeredHopfield

    with pytest.raises(ValueError, match="Use `Newton`"):
        settle(LayeredHopfield([2, 2], key=jax.random.key(0)), jnp.ones(2), PathNewton())


def test_float32_paths_settle():
    lagrangian = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), oscillators())
    system = Path(lagrangian, FixedEnds([0.6, -0.4, 0.3], [-0.5, 0.2, 0.7]), steps=40, duration=2.0)
    eq = settle(system, None, PathNewton(rtol=1e-4, atol=1e-5))
    assert eq.state.dtype == jnp.float32
