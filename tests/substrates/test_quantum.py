"""Quantum spins: Hamiltonians against Kronecker products, gradients against perturbation theory, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import eqprop as ep
from eqprop.substrates.quantum import PauliHamiltonian, heisenberg, pauli, transverse_field_ising

NONE = jnp.zeros(0)
MATRICES = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1.0, -1.0]),
}


def matrix(string):
    return functools.reduce(np.kron, [MATRICES[axis] for axis in string])


def hamiltonian(system, inputs=()):
    pairs = [*zip(system.coefficients, system.terms, strict=True), *zip(inputs, system.input_terms, strict=True)]
    return sum(float(c) * matrix(string) for c, strings in pairs for string in strings).real


def ising(spins, seed=0):
    random = np.random.default_rng(seed)
    ring = [(i, (i + 1) % spins) for i in range(spins)]
    return transverse_field_ising(
        ring,
        spins,
        coupling=jnp.asarray(0.6 + 0.3 * random.normal(size=spins)),
        field=jnp.asarray(0.9 + 0.1 * random.normal(size=spins)),
        longitudinal=jnp.asarray(0.2 * random.normal(size=spins)),
        observables=[pauli(spins, {0: "Z"}), pauli(spins, {spins - 1: "X"}), pauli(spins, {1: "Z", 2: "Z"})],
    )


TARGETS = jnp.asarray([[0.2, 0.1, -0.3]])
NO_INPUTS = jnp.zeros((1, 0))


def exact_gradient(system, level=0):
    """First-order perturbation theory of the cost of expectation values, by dense linear algebra in NumPy."""
    values, vectors = np.linalg.eigh(hamiltonian(system))
    psi = vectors[:, level]
    observables = [matrix(o).real for o in system.observables]
    read = np.array([psi @ o @ psi for o in observables])
    pull = sum(2 * (r - y) * (o @ psi) for r, y, o in zip(read, np.asarray(TARGETS[0]), observables, strict=True))
    amplitudes = vectors.T @ pull
    others = np.arange(len(values)) != level
    response = vectors[:, others] @ (amplitudes[others] / (values[level] - values[others]))
    return np.array([sum(response @ (matrix(s).real @ psi) for s in strings) for strings in system.terms])


def error(got, wanted):
    return float(np.linalg.norm(np.asarray(got) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("kind", ["ising", "heisenberg", "mixed"])
def test_the_hamiltonian_is_that_of_kronecker_products(kind):
    inputs = jnp.asarray([0.4, -0.3])
    if kind == "ising":
        system, inputs = ising(4), NONE
    elif kind == "heisenberg":
        edges = [(0, 1), (1, 2), (0, 3)]
        coupling, field = jnp.asarray([1.0, 0.7, 0.4]), jnp.asarray([0.1, 0.2, 0.3, 0.05])
        system, inputs = heisenberg(edges, 4, coupling=coupling, field=field, observables=["ZIII"]), NONE
    else:
        system = PauliHamiltonian(
            4, [["XYIY"], ["ZXZI", "YZIY"]], jnp.asarray([0.7, -1.2]), ["IXXI"], input_terms=[["YYYY"], ["ZIIX"]]
        )
    columns = jax.vmap(lambda v: system.apply(v, inputs))(jnp.eye(16)).T
    np.testing.assert_allclose(np.asarray(columns), hamiltonian(system, inputs), atol=1e-14)
    psi = np.random.default_rng(0).normal(size=16)
    psi = psi / np.linalg.norm(psi)
    for read, string in zip(system.output(jnp.asarray(psi)), system.observables, strict=True):
        assert float(read) == pytest.approx((psi @ matrix(string) @ psi).real, abs=1e-14)


@pytest.mark.parametrize(
    ("nudge", "level"),
    [(ep.Forced, 0), pytest.param(ep.Forced, 2, marks=pytest.mark.slow), (ep.CostNudged, 0), (ep.CostNudged, 2)],
)
def test_eight_spins_at_second_order(level, nudge):
    # Check 10: transverse-field Ising, symmetric nudges of a nonlinear cost of expectation values.
    system = ising(5 if nudge is ep.CostNudged else 8)
    wanted = exact_gradient(system, level)
    betas, errors = np.array([0.05, 0.0125]), []
    solver = ep.DenseEigen(level) if nudge is ep.CostNudged else ep.Lanczos(level)
    for beta in betas:
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), solver, nudge)
        estimate = propagate(system, ep.SquaredError(), NO_INPUTS, TARGETS)
        assert estimate.settled.all()
        errors.append(error(estimate.gradient.coefficients, wanted))
    slope = np.polyfit(np.log(betas), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.1, errors
    assert errors[0] < (3e-3 if level == 0 else 3e-2), errors


@pytest.mark.slow
def test_ten_spins_by_lanczos():
    system = ising(10, seed=1)
    propagate = ep.EquilibriumPropagation(ep.symmetric(0.025), ep.Lanczos())
    estimate = propagate(system, ep.SquaredError(), NO_INPUTS, TARGETS)
    assert error(estimate.gradient.coefficients, exact_gradient(system)) < 1e-3


def test_twelve_spins_against_arpack():
    spins = 12
    edges = [(i, (i + 1) % spins) for i in range(spins)] + [(0, 6), (3, 9)]
    random = np.random.default_rng(0)
    system = heisenberg(
        edges,
        spins,
        coupling=jnp.asarray(1 + 0.3 * random.normal(size=len(edges))),
        field=jnp.asarray(0.3 * random.normal(size=spins)),
        observables=[pauli(spins, {0: "Z"}), pauli(spins, {0: "Z", 1: "Z"})],
    )
    apply = jax.jit(lambda v: system.apply(v, NONE))
    operator = scipy.sparse.linalg.LinearOperator((2**spins,) * 2, lambda v: np.asarray(apply(v.ravel())), dtype=float)
    values, vectors = scipy.sparse.linalg.eigsh(operator, 3, which="SA", tol=1e-12)
    order = np.argsort(values)
    for level in [0, 1]:
        found = ep.settle(system, NONE, ep.Lanczos(level))
        assert float(found.value) == pytest.approx(values[order[level]], abs=1e-10)
        assert abs(float(found.state @ vectors[:, order[level]])) == pytest.approx(1, abs=1e-12)
        gaps = np.abs(np.delete(values, order[level]) - values[order[level]])
        assert float(found.gap) == pytest.approx(gaps.min(), rel=1e-6)


@pytest.mark.slow
def test_the_gradient_of_twelve_spins_against_sternheimers_equation():
    system = ising(12, seed=2)
    rule = ep.EquilibriumPropagation(ep.symmetric(0.025), ep.Lanczos())
    estimate = rule(system, ep.SquaredError(), NO_INPUTS, TARGETS)
    psi, energy = estimate.free.state[0], float(estimate.free.value[0])

    def image(coefficients, terms):
        return PauliHamiltonian(12, terms, coefficients, system.observables).apply(psi, NONE)

    observables = [[o] for o in system.observables]
    each = jax.vmap(image, (0, None))
    force = each(jnp.eye(3), observables).T @ (system.output(psi) - TARGETS[0])
    apply = jax.jit(lambda v: system.apply(v, NONE))
    away = np.asarray(force - psi * (psi @ force))
    shifted = scipy.sparse.linalg.LinearOperator(
        (2**12,) * 2, lambda v: np.asarray(apply(v.ravel())) - energy * v.ravel(), dtype=float
    )
    response, failed = scipy.sparse.linalg.minres(shifted, away, rtol=1e-10)
    assert not failed
    response = response - np.asarray(psi) * (np.asarray(psi) @ response)
    wanted = -2 * np.asarray(each(jnp.eye(len(system.terms)), system.terms)) @ response
    assert estimate.settled.all()
    assert error(estimate.gradient.coefficients, wanted) < 1e-3


def test_dense_and_lanczos_agree_and_newton_finds_nothing_to_improve():
    system = ising(5)
    for level in [0, 3]:
        dense, krylov = (ep.settle(system, NONE, solver) for solver in [ep.DenseEigen(level), ep.Lanczos(level)])
        assert abs(float(dense.state @ krylov.state)) == pytest.approx(1, abs=1e-12)
        assert float(dense.value) == pytest.approx(float(krylov.value), abs=1e-11)
        assert float(dense.gap) == pytest.approx(float(krylov.gap), rel=1e-6)
        improved = ep.settle(system, NONE, ep.Newton(rtol=1e-12), start=dense.state)
        np.testing.assert_allclose(improved.state, dense.state, atol=1e-11)


def test_the_certificate_is_given():
    certificate = ep.certify(
        ising(4), ep.SquaredError(), NO_INPUTS, TARGETS, ep.EquilibriumPropagation(ep.symmetric(0.05), ep.DenseEigen())
    )
    assert certificate.ok, str(certificate)
    assert abs(certificate.order - 2) < 0.05


def thermal(system, temperature):
    values, vectors = np.linalg.eigh(hamiltonian(system))
    weights = np.exp(-(values - values[0]) / temperature)
    return (vectors * (weights / weights.sum())) @ vectors.T


def thermal_cost(system, temperature):
    rho = thermal(system, temperature)
    read = [np.trace(rho @ matrix(o).real) for o in system.observables]
    return 0.5 * np.sum((np.array(read) - np.asarray(TARGETS[0])) ** 2)


def test_thermal_states_at_second_order_where_the_classical_covariance_is_wrong():
    # The error at a given beta grows as the state cools: 2.0e-4 here at temperature 1, 4.0e-4 at 0.7, 6.1e-4 at 0.5.
    system, temperature = ising(5), 1.0
    exact, step = [], 1e-5
    for k in range(len(system.terms)):
        shift = jnp.zeros(len(system.terms)).at[k].set(step)
        up, down = (
            PauliHamiltonian(5, system.terms, system.coefficients + sign * shift, system.observables)
            for sign in (1, -1)
        )
        exact.append((thermal_cost(up, temperature) - thermal_cost(down, temperature)) / (2 * step))
    exact = np.array(exact)
    betas, errors = np.array([0.1, 0.05, 0.025]), []
    for beta in betas:
        propagate = ep.EquilibriumPropagation(ep.symmetric(beta), ep.ThermalEigen(temperature))
        estimate = propagate(system, ep.SquaredError(), NO_INPUTS, TARGETS)
        assert float(estimate.value) == pytest.approx(thermal_cost(system, temperature), rel=1e-12)
        errors.append(error(estimate.gradient.coefficients, exact))
    assert abs(np.polyfit(np.log(betas), np.log(errors), 1)[0] - 2) < 0.05, errors
    assert errors[1] < 3e-4
    # -Cov(C, dE/dtheta)/T with operators in place of functions: what a classical estimator would compute.
    rho = thermal(system, temperature)
    observables = [matrix(o).real for o in system.observables]
    read = [np.trace(rho @ o) for o in observables]
    slope = sum((r - y) * o for r, y, o in zip(read, np.asarray(TARGETS[0]), observables, strict=True))
    terms = [sum(matrix(s).real for s in strings) for strings in system.terms]
    classical = np.array([-(np.trace(rho @ slope @ p) - np.trace(rho @ slope) * np.trace(rho @ p)) for p in terms])
    assert error(classical / temperature, exact) > 0.1


def test_the_classical_covariance_estimator_refuses_quantum_states():
    covariance = pytest.importorskip("eqprop.gradient.covariance")
    with pytest.raises(ValueError, match="classical Boltzmann distributions only"):
        covariance.BoltzmannCovariance(ep.ThermalEigen(0.5))


def test_a_thermal_state_becomes_the_ground_state_when_cold():
    system = ising(4)
    ground = ep.settle(system, NONE, ep.DenseEigen())
    cold = ep.settle(system, NONE, ep.ThermalEigen(1e-2 * float(ground.gap)))
    np.testing.assert_allclose(system.output(cold.state), system.output(ground.state), atol=1e-12)


@pytest.mark.parametrize("solver", [ep.DenseEigen(), pytest.param(ep.Lanczos(), marks=pytest.mark.slow)])
def test_a_degenerate_ground_state_is_refused(solver):
    # Two spins up or two spins down cost the same without a field.
    pair = PauliHamiltonian(3, [["ZZI"], ["IZZ"]], jnp.asarray([-1.0, -1.0]), ["ZII"])
    with pytest.raises(Exception, match="singular at this state: some direction of the state costs no"):
        ep.settle(pair, NONE, solver)
    estimate = ep.EquilibriumPropagation(ep.symmetric(0.1), solver)(
        pair, ep.SquaredError(), NO_INPUTS, jnp.ones((1, 1))
    )
    assert not estimate.settled.any()
    lifted = PauliHamiltonian(3, [["ZZI"], ["IZZ"], ["ZII"]], jnp.asarray([-1.0, -1.0, -0.1]), ["ZII"])
    assert float(ep.settle(lifted, NONE, solver).gap) == pytest.approx(0.2)


def test_nudges_beyond_the_gap_leave_the_branch():
    # A field of 0.01 holds the spin up; a force of 1 turns it down. By overlap the level is followed, but not the
    # ground.
    spin = PauliHamiltonian(1, [["Z"], ["X"]], jnp.asarray([-0.01, -0.001]), ["Z"])
    propagate = ep.EquilibriumPropagation(ep.one_sided(1.0), ep.DenseEigen())
    followed = propagate(spin, ep.SquaredError(), NO_INPUTS, -jnp.ones((1, 1)))
    assert float(followed.nudged.value[0, 0]) > 0
    turned = PauliHamiltonian(2, [["ZI"], ["XI"], ["IX"]], jnp.asarray([-0.01, -0.01, -0.5]), ["XI"])
    lost = propagate(turned, ep.SquaredError(), NO_INPUTS, -jnp.ones((1, 1)))
    assert bool(lost.settled[0]) == (abs(float(lost.free.state[0] @ lost.nudged.state[0, 0])) > 0.5**0.5)


def test_a_level_that_a_nudge_lifts_is_followed_as_closely_as_the_ground_state():
    # A weak field holds the first spin up, beside a chain of five; a stronger nudge puts the state with it down below.
    rest = ising(5)
    terms = [["ZIIIII"], ["XIIIII"], ["ZZIIII"], *[["I" + string for string in strings] for strings in rest.terms]]
    coefficients = jnp.concatenate([jnp.asarray([-0.2, -0.02, -0.05]), rest.coefficients])
    system = PauliHamiltonian(6, terms, coefficients, ["ZIIIII"])
    target = -jnp.ones((1, 1))
    dense, lanczos = (
        ep.EquilibriumPropagation(ep.one_sided(0.4), solver)(system, ep.SquaredError(), NO_INPUTS, target)
        for solver in (ep.DenseEigen(), ep.Lanczos(krylov=8, rtol=1e-6))
    )
    assert float(dense.nudged.state[0, 0] @ dense.free.state[0]) > 0.9
    hamiltonian_nudged = hamiltonian(system) + 0.4 * 2 * matrix("ZIIIII").real
    assert float(dense.nudged.value[0, 0]) > np.linalg.eigvalsh(hamiltonian_nudged)[0] + 0.1
    assert lanczos.settled.all()
    assert abs(float(lanczos.nudged.state[0, 0] @ dense.nudged.state[0, 0])) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PauliHamiltonian(2, [["ZZZ"]], jnp.ones(1), ["ZI"]), "2 letters of I, X, Y, Z; got 'ZZZ'"),
        (lambda: PauliHamiltonian(2, [["ZA"]], jnp.ones(1), ["ZI"]), "got 'ZA'"),
        (lambda: PauliHamiltonian(2, [["YI"]], jnp.ones(1), ["ZI"]), "odd number of Y"),
        (lambda: PauliHamiltonian(2, [["ZI"]], jnp.ones(2), ["ZI"]), "do not fit 1 terms"),
        (lambda: PauliHamiltonian(2, [["ZI"]], jnp.ones(1), []), "`observables` is empty"),
        (lambda: pauli(2, {2: "Z"}), "there are 0 to 1"),
        (lambda: ep.DenseEigen(-1), "counts from the ground state"),
        (lambda: ep.Lanczos(krylov=2), "must be at least 3; got 2"),
        (lambda: ep.ThermalEigen(0.0), "`ThermalEigen.temperature` must be positive; got 0.0"),
    ],
)
def test_bad_settings_are_refused_in_words(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_inputs_and_levels_are_refused_in_words():
    spin = PauliHamiltonian(1, [["Z"]], jnp.ones(1), ["Z"])
    with pytest.raises(ValueError, match="do not fit 0 input terms"):
        ep.settle(spin, jnp.zeros(1), ep.DenseEigen())
    with pytest.raises(ValueError, match="`level` = 2 does not exist"):
        ep.settle(spin, NONE, ep.DenseEigen(2))
    with pytest.raises(ValueError, match="needs more than the 2 states"):
        ep.settle(spin, NONE, ep.Lanczos(1))
