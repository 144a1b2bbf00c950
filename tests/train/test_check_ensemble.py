"""Checks of systems at a finite temperature: right ones pass, wrong ones are told what is wrong."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

import eqprop as ep
from eqprop.cli import main
from eqprop.system import Conditionals, CostNudged
from eqprop.train.check_ensemble import check_ensemble

EDGES = [(0, 2), (1, 2), (1, 3), (2, 4), (3, 4), (2, 3)]
INPUTS, TARGETS = jnp.asarray([[0.6, -1.0], [1.0, 0.5]]), jnp.asarray([[1.0], [-1.0]])


def ising(gain=1.5):
    return ep.Ising(2, 3, EDGES, [4], key=jax.random.key(0), gain=gain)


def rule(solver, beta=0.3, stencil=ep.symmetric):
    return ep.EquilibriumPropagation(stencil(beta), solver, CostNudged)


class Tampered(ep.Ising):
    """An Ising model whose conditionals feel a part of the field, and hear a part of the nudge."""

    felt: Float[Array, ""]
    heard: Float[Array, ""]

    def __init__(self, model, felt=1.0, heard=1.0):
        for field in dataclasses.fields(ep.Ising):
            setattr(self, field.name, getattr(model, field.name))
        self.felt, self.heard = jnp.asarray(felt), jnp.asarray(heard)

    def conditionals(self, inputs, nudge):
        right = ep.Ising.conditionals(self, inputs, None if nudge is None else lambda s: self.heard * nudge(s))
        assert right is not None
        return Conditionals(right.count, right.noise, lambda b, u, t, s: right.draw(b, u, t / self.felt, s))


class Unlisted(ep.Ising):
    """Too many configurations to list, it says."""

    def configurations(self):
        raise ValueError("too many")


class Bare(ep.Ising):
    def configurations(self):
        return None

    def conditionals(self, inputs, nudge):
        return None


class Wells(ep.System):
    """Coupled quartic wells in a field."""

    stiffness: Float[Array, " unit"]

    def energy(self, state, inputs):
        return jnp.sum(0.5 * self.stiffness * state**2 + 0.25 * state**4 - inputs * state) - 0.3 * state[0] * state[1]

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


WELLS = Wells(jnp.asarray([1.0, 2.0]))


def as_other(kind, model):
    """The same model as another class of its kind."""
    other = object.__new__(kind)
    for field in dataclasses.fields(model):
        object.__setattr__(other, field.name, getattr(model, field.name))
    return other


def test_spins_are_certified_with_the_sampler_and_beta_of_a_bare_system():
    result = check_ensemble(Tampered(ising()), None, INPUTS)
    assert result.ok, result.problems
    assert result.sampler == "Gibbs"
    assert result.reference == "all 8 configurations"
    assert result.certificate.order == pytest.approx(2, abs=0.2)
    assert 0 < result.state_score < result.scores_expected < 6
    assert 0 < result.noise < 1


def test_twenty_right_systems_are_all_called_right():
    for seed in range(20):
        model = Tampered(ep.Ising(2, 3, EDGES, [4], key=jax.random.key(seed)))
        result = check_ensemble(model, ep.SquaredError(), INPUTS, TARGETS)
        assert result.ok, (seed, result.problems)


def test_conditionals_that_do_not_follow_from_the_energy_are_found():
    result = check_ensemble(Tampered(ising(), felt=0.8), ep.SquaredError(), INPUTS, TARGETS)
    assert not result.ok
    assert "The samples are not those of exp(-E/T) at T = 1: the mean of" in result.problems[0]
    assert "`conditionals` does not follow from `energy`" in result.problems[0]


def test_conditionals_that_misuse_the_nudge_are_found():
    deaf = check_ensemble(Tampered(ising(), heard=0.0), ep.SquaredError(), INPUTS, TARGETS)
    assert deaf.problems == (
        "The nudge moved no sample of any example, so there is no contrast to learn from, although it should have "
        "moved many: `conditionals` does not use its `nudge`.",
    )
    half = check_ensemble(Tampered(ising(), heard=0.5), ep.SquaredError(), INPUTS, TARGETS)
    assert half.problems[0].startswith("The gradient is wrong: entries are off by up to")


@pytest.mark.slow
def test_too_short_a_burn_in_is_told_from_a_wrong_sampler():
    chain = ep.Ising(1, 12, [(k, k + 1) for k in range(12)], [12], key=jax.random.key(0))
    stiff = eqx.tree_at(lambda m: m.coupling, chain, jnp.full(12, 1.5))
    hasty = rule(ep.Gibbs(1.0, chains=64, burn_in=0, samples=2))
    result = check_ensemble(stiff, ep.SquaredError(), jnp.ones((1, 1)), -jnp.ones((1, 1)), hasty)
    assert any("they are: raise `burn_in`" in problem for problem in result.problems), result.problems


@pytest.mark.slow
def test_a_nudge_in_the_dead_zone_is_told():
    cold = rule(ep.Gibbs(0.02, chains=16, burn_in=50), 0.01)
    result = check_ensemble(ising(4.0), ep.SquaredError(), INPUTS, TARGETS, cold)
    assert any("Raise beta (it is a margin here)" in problem for problem in result.problems)


def test_a_strong_nudge_passes_with_a_warning():
    result = check_ensemble(ising(), ep.SquaredError(), INPUTS, TARGETS, rule(ep.Enumeration(1.0), 1.5))
    assert result.ok, result.problems
    assert result.noise == result.state_score == 0
    assert "it is the exact gradient of a surrogate" in result.warnings[0]
    assert "beta = " in result.warnings[0]


@pytest.mark.slow
def test_systems_too_large_to_list_are_held_against_a_longer_run():
    model = as_other(Unlisted, ising())
    result = check_ensemble(model, ep.SquaredError(), INPUTS, TARGETS, rule(ep.Gibbs(1.0, chains=32, samples=40)))
    assert result.ok, result.problems
    assert result.reference.startswith("Gibbs, 64 chains of 160 samples after 200")
    assert result.certificate is None


@pytest.mark.slow
def test_a_finite_temperature_energy_is_certified_and_a_long_step_is_not():
    pytest.importorskip("blackjax")
    inputs, targets = jnp.asarray([[0.5, -0.2]]), jnp.asarray([[-0.5, 1.0]])

    def checked(step):
        sampler = ep.Langevin(0.5, step, chains=64, burn_in=200, samples=50, thin=10)
        return check_ensemble(WELLS, ep.SquaredError(), inputs, targets, rule(sampler, 0.1))

    good = checked(0.01)
    assert good.ok, good.problems
    assert good.reference.startswith("MALA")
    assert good.step_bias < 0.03
    bad = checked(0.2)
    assert not bad.ok
    assert "to the virial: lower `step_size`, or use `MALA`" in bad.problems[0]


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match=r"`Bare` is discrete but declares neither `conditionals`, for `Gibbs`"):
        check_ensemble(as_other(Bare, ising()), None, INPUTS)
    with pytest.raises(ValueError, match=r"takes discrete values, which `Newton` cannot settle"):
        check_ensemble(ising(), None, INPUTS, None, rule(ep.Newton()))
    with pytest.raises(ValueError, match=r"`ContrastiveHebbian` does not estimate the gradient of an expected cost"):
        check_ensemble(ising(), None, INPUTS, None, ep.ContrastiveHebbian(ep.Gibbs(1.0)))
    with pytest.raises(ValueError, match=r"`Ising` needs inputs to be checked"):
        check_ensemble(ising())


SCRIPT = """
import jax, jax.numpy as jnp
import eqprop as ep

free = ep.Ising(0, 4, [(0, 1), (1, 2), (2, 3), (3, 0)], key=jax.random.key(0), gain=1.0)


def harsh():
    rule = ep.EquilibriumPropagation(ep.symmetric(20.0), ep.Enumeration(1.0), ep.CostNudged)
    return free, ep.SquaredError(), jnp.zeros((2, 0)), jnp.asarray([[1.0, -1.0, 1.0, 1.0], [-1.0] * 4]), rule
"""


def test_the_command_certifies_or_refuses_by_exit_code(tmp_path, capsys):
    source = tmp_path / "spins.py"
    source.write_text(SCRIPT)
    assert main(["check", f"{source}:free"]) == 0
    said = capsys.readouterr().out
    assert "Sampling of Ising at T = 1 by Gibbs" in said
    assert "reference: all 16 configurations" in said
    assert "CERTIFIED" in said
    assert "right: learning follows the true gradient" in said
    assert main(["check", f"{source}:harsh"]) == 1
    said = capsys.readouterr().out
    assert "problem: At beta = 20 the contrast is off from the gradient by" in said
    assert "NOT right" in said
