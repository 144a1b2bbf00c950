"""Reports of spins, oscillators, quantum matter, learners, doubled networks: the proof, and sections of their own."""

import numpy as np
import pytest

from eqprop.train.config import load_config
from eqprop.train.report.page import make_sections
from eqprop.train.report.phases_of_matter import phases_of_matter
from eqprop.train.report.regularisation import regularisation
from eqprop.train.report.study import Study
from eqprop.train.run import continue_run, new_run

DIGITS = ("data.train_examples=40", "data.test_examples=20", "epochs=1")
SMALL = {
    # At the preset's beta, a margin, an untrained model follows its surrogate, and not the gradient.
    "xor-ising": ("epochs=2", "recipe.beta=0.3", 'recipe.stencil="symmetric"'),
    "digits-feedforward-dyadic": (*DIGITS, "recipe.hidden=[6]"),
    "digits-boltzmann": (*DIGITS, "recipe.hidden=[6]"),
    "digits-oscillators": (*DIGITS, "recipe.hidden=[6]"),
    "phase-recognition-quantum": (
        "epochs=1",
        "recipe.matter=4",
        "recipe.sensors=1",
        "recipe.train_examples=10",
        "recipe.test_examples=20",
    ),
    "hyper-ridge": ("epochs=2", "recipe.per_weight=true"),
}
OWN = {
    "xor-ising": ["Answers"],
    "digits-oscillators": ["Other rest states"],
    "phase-recognition-quantum": ["Phases recognised"],
    "hyper-ridge": ["Beside a grid"],
}
CHEAP = ("xor-ising", "digits-feedforward-dyadic")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CHEAP else pytest.mark.slow) for name in SMALL]
)
def test_a_report_proves_the_gradient_and_shows_the_physics(name, tmp_path):
    run = continue_run(new_run(load_config(name, (*SMALL[name], "precision=float64")), tmp_path)).run
    made, left_out = make_sections(Study(run))
    sections = {section.title: section for section in made}
    assert not [reason for _, reason in left_out if "could not be made" in reason]
    proof = sections["Is the gradient the true one?"]
    assert "CERTIFIED" in proof.text
    assert proof.headlines[-1].good
    assert len(proof.pictures) >= 1
    assert set(OWN.get(name, [])) <= set(sections)
    if name not in ("phase-recognition-quantum", "hyper-ridge"):
        assert sections["How phases settle"].pictures


def test_a_sensor_is_judged_apart_near_the_transition():
    distance = np.array([-0.5, -0.05, 0.05, 0.5])
    section = phases_of_matter(distance, np.sign(distance), np.array([-1, 0.2, 0.1, 0.9]), np.full(4, 0.3), 0.1)
    assert "3 of 4 held-out Hamiltonians are told right: 1 of the 2 within 0.1 of the transition, 2 of the 2" in (
        section.text
    )
    assert section.headlines[0].value == "50%"


def test_learned_strengths_are_held_against_the_best_of_the_grid():
    grid = np.linspace(-1, 1, 5)
    found = {"validation": grid**2 + 1, "test": grid**2 + 2}
    section = regularisation(np.array([0.1]), {"validation": 1.005, "test": 2.0}, grid, found)
    assert section.headlines[0].value == "1.00500"
    assert section.headlines[0].good
    many = regularisation(np.array([0.1, 2.0]), {"validation": 1.02, "test": 2.0}, grid, found)
    assert len(many.pictures) == 2
    assert not many.headlines[0].good
