"""The theorem for Boltzmann distributions: exact by enumeration and quadrature, then sampled."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import eqprop as ep
from eqprop.system import CostNudged, Forced

COST = ep.SquaredError()


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def relative(a, b):
    return np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


@pytest.fixture(scope="module")
def ising():
    """Eight spins on a complete graph, three of them read; no inputs, two examples that want different things."""
    rng = np.random.default_rng(4)
    upper = np.triu(rng.normal(size=(8, 8)) / 4, 1)
    model = ep.ising_from_couplings(upper + upper.T, rng.normal(size=8) / 4, outputs=[5, 6, 7])
    return model, jnp.zeros((2, 0)), jnp.asarray([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])


def expected_cost(model, inputs, targets, temperature, of_mean=False):
    """Mean over examples of the expected cost, differentiable, by its own enumeration."""
    states = model.configurations()

    def one(x, y):
        weights = jax.nn.softmax(-jax.vmap(lambda s: model.energy(s, x))(states) / temperature)
        outputs = jax.vmap(model.output)(states)
        if of_mean:
            return COST(weights @ outputs, y)
        return weights @ jax.vmap(lambda o: COST(o, y))(outputs)

    return jnp.mean(jax.vmap(one)(inputs, targets))


@pytest.mark.parametrize(
    ("rule", "order", "size"), [(ep.one_sided, 1, 0.2), (ep.symmetric, 2, 0.01), (ep.richardson, 4, 1e-4)]
)
def test_the_exact_contrast_converges_at_the_order_of_its_stencil(ising, rule, order, size):
    truth = eqx.filter_grad(expected_cost)(*ising, 1.0)
    model, inputs, targets = ising
    betas = [0.05, 0.1, 0.2]
    estimates = [
        ep.EquilibriumPropagation(rule(b), ep.Enumeration(1.0), CostNudged)(model, COST, inputs, targets) for b in betas
    ]
    errors = [relative(e.gradient, truth) for e in estimates]
    assert np.polyfit(np.log(betas), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)
    assert errors[1] < size
    assert float(estimates[0].value) == pytest.approx(float(expected_cost(*ising, 1.0)), rel=1e-13)


def test_complex_nudges_give_the_contour_rule(ising):
    truth = eqx.filter_grad(expected_cost)(*ising, 1.0)
    model, inputs, targets = ising
    with jax.numpy_dtype_promotion("standard"):
        rules = [
            ep.EquilibriumPropagation(ep.holomorphic(b, points=8), ep.Enumeration(1.0), CostNudged) for b in (0.2, 0.4)
        ]
        errors = [relative(rule(model, COST, inputs, targets).gradient, truth) for rule in rules]
    assert np.log2(errors[1] / errors[0]) == pytest.approx(8, abs=0.5)
    assert errors[0] < 1e-6


def test_a_force_at_the_mean_output_gives_the_gradient_of_the_cost_of_the_mean(ising):
    truth = eqx.filter_grad(expected_cost)(*ising, 1.0, True)
    model, inputs, targets = ising
    estimate = ep.EquilibriumPropagation(ep.symmetric(0.05), ep.Enumeration(1.0), Forced)(model, COST, inputs, targets)
    assert relative(estimate.gradient, truth) < 5e-3
    assert float(estimate.value) == pytest.approx(float(expected_cost(*ising, 1.0, True)), rel=1e-13)
    covariance = ep.BoltzmannCovariance(ep.Enumeration(1.0), Forced)(model, COST, inputs, targets)
    assert relative(covariance.gradient, truth) < 1e-13
    assert float(covariance.value) == pytest.approx(float(estimate.value), rel=1e-13)


def test_the_covariance_of_all_configurations_is_the_gradient(ising):
    truth = eqx.filter_grad(expected_cost)(*ising, 0.7)
    model, inputs, targets = ising
    assert relative(ep.BoltzmannCovariance(ep.Enumeration(0.7))(model, COST, inputs, targets).gradient, truth) < 1e-13


def free_energies(model, inputs, targets, beta):
    def one(x, y):
        system = CostNudged(model, COST, y, None, jnp.asarray(beta))
        return ep.Enumeration(1.0).solve(system, x, system.initial_state(x), free=None, key=None).free_energy

    return jnp.mean(jax.vmap(one)(inputs, targets))


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_at_finite_beta_the_contrast_is_the_gradient_of_its_surrogate(ising, beta):
    model, inputs, targets = ising

    def one_sided(model):
        return (free_energies(model, inputs, targets, beta) - free_energies(model, inputs, targets, 0.0)) / beta

    def symmetric(model):
        return (free_energies(model, inputs, targets, beta) - free_energies(model, inputs, targets, -beta)) / (2 * beta)

    for rule, surrogate in ((ep.one_sided, one_sided), (ep.symmetric, symmetric)):
        estimate = ep.EquilibriumPropagation(rule(beta), ep.Enumeration(1.0), CostNudged)(model, COST, inputs, targets)
        assert relative(estimate.gradient, eqx.filter_grad(surrogate)(model)) < 1e-13


def test_boltzmann_machine_learning_is_the_clamped_limit():
    rng = np.random.default_rng(2)
    upper = np.triu(rng.normal(size=(5, 5)) / 2, 1)
    model = ep.ising_from_couplings(upper + upper.T, rng.normal(size=5) / 2, outputs=[0, 1, 2])
    inputs, data = jnp.zeros((4, 0)), jnp.asarray(rng.choice([-1.0, 1.0], (4, 3)))
    states, temperature = model.configurations(), 0.8

    def surprise(model):
        """Minus the temperature times the mean log-likelihood of the visible spins, hidden ones summed out."""
        log_p = jax.nn.log_softmax(-jax.vmap(lambda s: model.energy(s, inputs[0]))(states) / temperature)
        seen = [jnp.all(states[:, :3] == v[None], axis=1) for v in data]
        return -temperature * jnp.mean(jnp.stack([jax.nn.logsumexp(jnp.where(m, log_p, -jnp.inf)) for m in seen]))

    truth = eqx.filter_grad(surprise)(model)
    strong = ep.EquilibriumPropagation(ep.one_sided(40.0), ep.Enumeration(temperature), CostNudged)
    nudged = jax.tree.map(lambda g: 40.0 * g, strong(model, COST, inputs, data).gradient)
    assert relative(nudged, truth) < 1e-12
    clamped = ep.ContrastiveHebbian(ep.Enumeration(temperature))(model, COST, inputs, data).gradient
    assert relative(clamped, truth) < 1e-12
    sampled = ep.ContrastiveHebbian(ep.Gibbs(temperature, chains=64, samples=100))
    estimate = sampled(model, COST, inputs, data, key=jax.random.key(1))
    assert relative(estimate.gradient, truth) < 0.1


@pytest.fixture(scope="module")
def repeats(ising):
    """A hundred sampled contrasts at beta = 0.1 with the correlations of each leg."""
    model, inputs, targets = ising
    solver = ep.Gibbs(1.0, chains=32, burn_in=20, samples=50)
    rule = ep.EquilibriumPropagation(ep.symmetric(0.1), solver, CostNudged)
    tails, heads = np.asarray(model.edges).T

    @jax.jit
    def run(keys):
        def one(key):
            estimate = rule(model, COST, inputs, targets, key=key)
            spins = estimate.nudged.state
            means = -jnp.mean(spins[..., tails] * spins[..., heads], axis=(1, 2))
            return jax.flatten_util.ravel_pytree((estimate.gradient, estimate.standard_error))[0], means

        return jax.lax.map(one, keys)

    both, legs = run(jax.random.split(jax.random.key(5), 100))
    gradients, errors = np.split(np.asarray(both), 2, axis=1)
    exact = ep.EquilibriumPropagation(ep.symmetric(0.1), ep.Enumeration(1.0), CostNudged)
    return gradients, errors, np.asarray(legs), flat(exact(model, COST, inputs, targets).gradient)


def test_sampled_gradients_lie_within_their_standard_errors_in_95_of_100_seeds(repeats):
    gradients, errors, _, exact = repeats
    scores = (gradients - exact) / errors
    within = (np.abs(scores) < 2.75).sum(0)  # 99 % of Student's distribution with 31 degrees of freedom
    assert within.min() >= 95
    assert 0.8 < scores.std() < 1.3
    # The stated errors are those seen from seed to seed.
    seen, told = gradients.std(0), np.sqrt((errors**2).mean(0))
    np.testing.assert_allclose(told, seen, rtol=0.35)


def test_common_noise_cancels(repeats):
    _, _, legs, _ = repeats
    together = (legs[:, 0] - legs[:, 1]) / 0.2
    apart = (legs[:, 0] - np.roll(legs[:, 1], 1, axis=0)) / 0.2
    np.testing.assert_allclose(np.mean(together, 0), np.mean(apart, 0), atol=1e-12)
    assert np.linalg.norm(together.std(0)) < 0.6 * np.linalg.norm(apart.std(0))


def test_one_sided_rules_share_their_noise_too(ising):
    model, inputs, targets = ising
    solver = ep.Gibbs(1.0, chains=16, burn_in=10, samples=20)
    estimate = ep.EquilibriumPropagation(ep.one_sided(1e-6), solver, CostNudged)(
        model, COST, inputs, targets, key=jax.random.key(0)
    )
    # So weak a nudge turns no spin: without common noise the contrast would be of the order of a million.
    assert np.asarray(estimate.unmoved).all()
    assert np.abs(flat(estimate.gradient)).max() < 1.0


class Pair(ep.System):
    """Two quartic wells, coupled and pushed: one minimum."""

    stiffness: Float[Array, " unit"]
    coupling: Float[Array, ""]

    def energy(self, state, inputs):
        wells = jnp.sum(self.stiffness * state**2 / 2 + state**4 / 4)
        return wells - self.coupling * state[0] * state[1] - jnp.sum(inputs * state)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


PAIR = Pair(jnp.asarray([1.0, 0.5]), jnp.asarray(0.6))
PUSH, WANTED = jnp.asarray([[0.5, -0.2]]), jnp.asarray([[-0.5, 1.0]])


def quadrature(system, temperature, beta=None):
    """Gradient of the expected cost, or of the symmetric surrogate at `beta`, on a grid that is exact to rounding."""
    axis = np.linspace(-5, 5, 401)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    costs = jnp.sum((grid - WANTED) ** 2, axis=1) / 2

    def energies(system):
        return jax.vmap(lambda s: system.energy(s, PUSH[0]))(grid)

    def free_energy(system, b):
        return -temperature * jax.nn.logsumexp(-(energies(system) + b * costs) / temperature)

    def value(system):
        if beta is None:
            return jax.nn.softmax(-energies(system) / temperature) @ costs
        return (free_energy(system, beta) - free_energy(system, -beta)) / (2 * beta)

    return eqx.filter_grad(value)(system)


class Springs(ep.System):
    """Two coupled springs, whose discrete Langevin chain is known in closed form."""

    stiffness: Float[Array, " unit"]
    coupling: Float[Array, ""]

    def energy(self, state, inputs):
        pull = jnp.sum(self.stiffness * state**2 / 2) - self.coupling * state[0] * state[1]
        return pull - jnp.sum(inputs * state)

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


SPRINGS = Springs(jnp.asarray([1.0, 2.0]), jnp.asarray(0.6))


def chain(temperature, step, beta):
    """Mean and second moments of the Langevin chain of the springs, nudged by beta times the squared error."""
    matrix = np.diag(np.asarray(SPRINGS.stiffness) + beta) - 0.6 * (1 - np.eye(2))
    mean = np.linalg.solve(matrix, PUSH[0] + beta * WANTED[0])
    spread = temperature * np.linalg.inv(matrix @ (np.eye(2) - step * matrix / 2))
    return mean, spread + np.outer(mean, mean)


def of_langevin():
    """Means of the free chain and the contrast of the nudged ones, step bias and all."""
    solver = ep.Langevin(0.5, 0.2, chains=32, burn_in=50, samples=20, thin=4)
    mean, second = chain(0.5, 0.2, 0.0)
    up, down = (chain(0.5, 0.2, b)[1] for b in (0.3, -0.3))
    slope = (up - down) / 0.6
    return SPRINGS, solver, np.concatenate([mean, np.diag(second)]), [slope[0, 0] / 2, slope[1, 1] / 2, -slope[0, 1]]


def of_mala():
    """The same of the Boltzmann distribution of the wells, by quadrature."""
    pytest.importorskip("blackjax")
    solver = ep.MALA(0.5, 0.3, chains=32, burn_in=50, samples=20, thin=4)
    axis = np.linspace(-5, 5, 401)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    exact = jax.nn.softmax(-jax.vmap(lambda s: PAIR.energy(s, PUSH[0]))(grid) / 0.5) @ jax.vmap(moments)(grid)
    return PAIR, solver, exact, flat(quadrature(PAIR, 0.5, 0.3))


def moments(state):
    return jnp.concatenate([state, state**2])


@pytest.mark.parametrize("problem", [of_langevin, of_mala])
def test_continuous_means_and_gradients_lie_within_their_standard_errors_in_95_of_100_seeds(problem):
    system, solver, means, gradient = problem()
    rule = ep.EquilibriumPropagation(ep.symmetric(0.3), solver, CostNudged)

    @jax.jit
    def scores(keys):
        def one(key):
            estimate = rule(system, COST, PUSH, WANTED, key=key)
            free = jax.tree.map(lambda leaf: leaf[0], estimate.free)
            found, error = (
                jax.flatten_util.ravel_pytree(tree)[0] for tree in (estimate.gradient, estimate.standard_error)
            )
            seen = (free.expect(moments) - jnp.asarray(means)) / free.standard_error(moments)
            return jnp.concatenate([seen, (found - jnp.asarray(gradient)) / error])

        return jax.lax.map(one, keys)

    found = np.asarray(scores(jax.random.split(jax.random.key(2), 100)))
    assert (np.abs(found) < 2.75).sum(0).min() >= 95  # 99 % of Student's distribution with 31 degrees of freedom
    assert 0.8 < found.std() < 1.3


def test_the_theorem_holds_for_continuous_states():
    errors = [relative(quadrature(PAIR, 0.5, beta), quadrature(PAIR, 0.5)) for beta in (0.1, 0.05)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)
    assert errors[0] < 1e-2


def test_at_low_temperature_the_gradient_becomes_that_of_the_rest_state():
    truth = ep.ImplicitDifferentiation(ep.Newton())(PAIR, COST, PUSH, WANTED).gradient
    errors = [relative(quadrature(PAIR, t), truth) for t in (0.04, 0.02, 0.01, 0.005)]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.1
    # Linear in the temperature, as the first correction to the saddle point is.
    assert errors[-1] / errors[-2] == pytest.approx(0.5, abs=0.15)


def test_langevin_contrasts_share_noise_and_their_bias_halves_with_the_step():
    exact = flat(quadrature(PAIR, 0.5, 0.1))

    def run(step, repeats):
        solver = ep.Langevin(0.5, step, chains=64, burn_in=200, samples=100, thin=10)
        rule = ep.EquilibriumPropagation(ep.symmetric(0.1), solver, CostNudged)

        @jax.jit
        def one(key):
            estimate = rule(PAIR, COST, PUSH, WANTED, key=key)
            states = estimate.nudged.state
            return jax.flatten_util.ravel_pytree(estimate.gradient)[0], jnp.mean(
                states[..., 0] * states[..., 1], (1, 2)
            )

        keys = jax.random.split(jax.random.key(7), repeats)
        return [np.asarray(part) for part in jax.lax.map(one, keys)]

    coarse, legs = run(0.1, 24)
    fine, _ = run(0.05, 24)
    errors = [np.linalg.norm(g.mean(0) - exact) / np.linalg.norm(exact) for g in (coarse, fine)]
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.2)
    assert 0.005 < errors[1] < 0.1
    together, apart = legs[:, 0] - legs[:, 1], legs[:, 0] - np.roll(legs[:, 1], 1)
    assert together.std() < 0.3 * apart.std()
