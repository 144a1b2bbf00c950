import html.parser
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
from eqprop.train.checkpoint import CheckpointError
from eqprop.train.config import load_config
from eqprop.train.recipes.hopfield import HopfieldRecipe
from eqprop.train.report import LeftOut, Section, proof, write_report
from eqprop.train.report import page as report_page
from eqprop.train.report.figure import mosaic, signed
from eqprop.train.report.page import make_sections
from eqprop.train.report.pictures import confusion
from eqprop.train.report.provenance import command
from eqprop.train.report.settling import trace
from eqprop.train.report.study import Study
from eqprop.train.run import Run, continue_run, new_run

VOID = {"meta", "img", "br", "hr", "link", "input"}
TITLES = [
    "Learning curves",
    "Is the gradient the true one?",
    "How phases settle",
    "Updates beside backpropagation through time",
    "First-layer weights",
    "Examples got wrong",
    "Confusions",
    "Settings, versions, seed",
]


@pytest.fixture(scope="module")
def folder(tiny, tiny_experiment, tmp_path_factory):
    folder = new_run(tiny, tmp_path_factory.mktemp("runs"))
    continue_run(folder, experiment=tiny_experiment)
    return folder


@pytest.fixture(scope="module")
def study(folder):
    return Study(Run(folder))


@pytest.fixture(scope="module")
def sections(study):
    return make_sections(study)


@pytest.fixture
def recipe_only(monkeypatch):
    """Only the recipe's own sections are made."""
    monkeypatch.setattr(report_page, "_BEFORE", {})
    monkeypatch.setattr(report_page, "_AFTER", {})


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text(encoding="utf-8")


def at_host(study):
    """The same run, as if its system lived outside the program."""

    class Outside(ep.Solver):
        host = True

        def solve(self, system, inputs, start, *, free, key):
            raise AssertionError("a host solver must not be started by a report")

    other = Study(study.run)
    other.experiment = eqx.tree_at(lambda e: e.propagate.solver, study.experiment, Outside())
    return other


class Page(html.parser.HTMLParser):
    """Tags that are left open or closed twice, and what each tag would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.loads, self.ids = [], [], [], []
        self.feed(text)
        self.faults += self.open

    def handle_startendtag(self, tag, attributes):
        self.look(attributes)

    def handle_starttag(self, tag, attributes):
        self.look(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"/{tag}")

    def look(self, attributes):
        for name, value in attributes:
            if name in ("src", "href", "srcset", "xlink:href", "action", "data"):
                self.loads.append(value)
            if name == "id":
                self.ids.append(value)


def test_the_page_is_well_formed_with_unique_ids(page):
    seen = Page(page)
    assert seen.faults == []
    assert len(seen.ids) == len(set(seen.ids)) > 20


def test_the_page_loads_nothing(page):
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in Page(page).loads)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "<script" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_all_references_inside_the_page_lead_somewhere(page):
    seen = Page(page)
    inside = {target[1:] for target in seen.loads if target.startswith("#")}
    inside |= {target[1:] for target in re.findall(r"url\(([^)]*)\)", page)}
    assert inside <= set(seen.ids)


def test_all_sections_of_a_digits_run_are_there(sections, page):
    made, left_out = sections
    assert [section.title for section in made] == TITLES
    assert left_out == []
    for title in TITLES:
        assert f"<h2>{title}</h2>" in page


def test_figures_are_xml_in_the_colours_of_the_page(page):
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) >= 8 + 1
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.attrib["aria-label"]
        assert "width" not in root.attrib
        # Every colour is a variable of the style sheet, so that it follows light and dark.
        assert re.findall(r"#[0-9a-f]{6}\b", figure) == []


def test_the_head_says_accuracy_cosine_and_verdict(study, page):
    metrics = study.run.metrics[-1]
    tiles = dict(re.findall(r'class="tile[^"]*"><b>(.*?)</b><span>(.*?)</span>', page))
    assert f"{100 * (1 - metrics['test_error']):.1f} %" in tiles
    assert {"CERTIFIED", "REFUSED"} & set(tiles)
    (cosine,) = [value for value, label in tiles.items() if "cosine" in label]
    assert 0.99 < float(cosine) <= 1


def test_the_proof_holds_what_certify_finds(study):
    section = proof.gradient_proof(study)
    experiment = study.experiment
    certificate = ep.certify(experiment.system, experiment.cost, *study.examples(8), experiment.propagate)
    assert f"cosine {certificate.cosine:.8f}" in section.text
    rows = {row[0]: float(row[1]) for row in section.table[1:]}
    assert rows == pytest.approx({name: pair[0] for name, pair in certificate.parameters.items()}, abs=1e-7)


def test_a_wrong_gradient_is_refused_in_words(study):
    flipped = ep.EquilibriumPropagation(ep.symmetric(0.05).scaled(1.0), ep.BlockDescent(), ep.Forced)
    flipped = eqx.tree_at(lambda p: p.stencil.weights, flipped, -flipped.stencil.weights)
    other = Study(study.run)
    other.experiment = eqx.tree_at(lambda e: e.propagate, study.experiment, flipped)
    section = proof.gradient_proof(other)
    verdict = section.headlines[1]
    assert verdict.value == "REFUSED"
    assert verdict.good is False
    assert "REFUSED: The gradient points the wrong way" in section.text


def test_large_states_are_judged_without_dense_hessians(study, monkeypatch):
    dense = proof.gradient_proof(study)
    monkeypatch.setattr(proof, "DENSE_UNITS", study.units - 1)
    free = proof.gradient_proof(study)
    assert "conjugate gradients" in free.text
    found, wanted = (float(re.search(r"cosine ([\d.]+)", s.text)[1]) for s in (free, dense))
    assert found == pytest.approx(wanted, abs=1e-7)


class Spring(ep.System):
    stiffness: jax.Array

    def energy(self, state, inputs):
        return 0.5 * self.stiffness * state**2 - inputs * state

    def initial_state(self, inputs):
        return jnp.zeros_like(inputs)


def test_a_trace_is_the_geometric_decay_of_a_spring():
    # s <- s - h (k s - x) leaves the residual |x| (1 - h k)^n.
    system, solver = Spring(jnp.asarray(2.0)), ep.GradientFlow(0.1, rtol=1e-3, atol=1e-3)
    way = trace(system, solver, jnp.asarray(3.0), length=60)
    eq = ep.settle(system, jnp.asarray(3.0), solver)
    steps = int(eq.steps)
    residual = np.asarray(way.residual)
    np.testing.assert_allclose(residual[:steps], 3 * 0.8 ** np.arange(steps), rtol=1e-10)
    assert np.isnan(residual[steps:]).all()
    np.testing.assert_allclose(way.outputs[-1], eq.state, rtol=1e-12)


def test_a_nudged_trace_ends_where_settling_does(study):
    experiment = study.experiment
    (x, *_), (y, *_) = study.examples(1)
    propagate, beta = experiment.propagate, jnp.asarray(0.05)
    free = ep.settle(experiment.system, x, propagate.solver)
    nudged = ep.Forced(experiment.system, experiment.cost, y, free, beta)
    eq = ep.settle(nudged, x, propagate.solver, free=free)
    way = trace(nudged, propagate.solver, x, length=int(eq.steps) + 3, free=free)
    assert int(np.isfinite(way.residual).sum()) == int(eq.steps)
    np.testing.assert_allclose(way.residual[int(eq.steps) - 1], eq.residual, rtol=1e-8)
    np.testing.assert_allclose(way.outputs[-1], experiment.system.output(eq.state), rtol=1e-10)


def test_what_does_not_apply_is_left_out_with_a_sentence(study):
    made, left_out = make_sections(at_host(study))
    assert [section.title for section in made] == ["Learning curves", "First-layer weights", "Settings, versions, seed"]
    assert {name for name, _ in left_out} == set(TITLES) - {section.title for section in made}
    assert all("outside this program" in reason for _, reason in left_out)


def test_recipes_add_sections_of_their_own(folder, recipe_only, monkeypatch):
    own = [Section("Of springs <&>", "`k` is 2.")]
    monkeypatch.setattr(HopfieldRecipe, "report_sections", lambda *_: own)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<h2>Of springs &lt;&amp;&gt;</h2>" in page
    assert "<p><code>k</code> is 2.</p>" in page
    assert Page(page).faults == []


def test_a_recipe_that_fails_costs_only_its_own_sections(study, recipe_only, monkeypatch):
    def fail(self, run):
        raise KeyError("no such thing")

    monkeypatch.setattr(HopfieldRecipe, "report_sections", fail)
    monkeypatch.setattr(report_page, "_AFTER", {"Confusions": confusion})
    made, left_out = make_sections(study)
    assert [section.title for section in made] == ["Confusions"]
    assert left_out == [("Sections of `hopfield`", "could not be made (KeyError: 'no such thing').")]


def test_confusions_count_every_example(study):
    counts = [int(n) for n in re.findall(r"(\d+) of 50 test", confusion(study).text)]
    scores, labels = study.judged.scores, study.judged.labels
    assert counts == [int((np.argmax(scores, 1) == labels).sum())]
    assert counts[0] == round(50 * (1 - study.run.metrics[-1]["test_error"]))


def test_the_command_makes_the_same_configuration_again(tiny):
    words = shlex.split(command(tiny, "unused.toml"))
    assert words[:3] == ["eqprop", "train", "digits"]
    assert load_config("digits", words[4::2]) == tiny
    assert command(load_config("digits"), "unused.toml") == "eqprop train digits"
    assert command(tiny.model_copy(update={"name": "mine"}), "a b.toml") == "eqprop train 'a b.toml'"


def test_signed_colours_and_mosaics():
    colours = signed(np.array([-1.0, 0.0, 0.5, 2.0]), 1.0)
    assert colours[:, 3].tolist() == [255, 0, 128, 255]
    assert colours[0, 2] > colours[0, 0]
    assert colours[3, 0] > colours[3, 2]
    tiles = np.full((3, 2, 2, 4), 7, np.uint8)
    whole = mosaic(tiles, columns=2)
    assert whole.shape == (5, 5, 4)
    assert int(whole.astype(int).sum()) == 7 * tiles.size


def test_inputs_that_are_no_images_have_no_pictures(study):
    other = Study(study.run)
    other.data = type("Data", (), {"shape": (7,)})()
    with pytest.raises(LeftOut, match=r"inputs of shape \[7\] are no grey images"):
        _ = other.picture_shape


def test_a_folder_without_weights_has_no_report(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint"):
        write_report(new_run(tiny, tmp_path))


def test_chromium_opens_it_with_the_network_off(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    # Every name is unknown and every address is a closed port.
    words += ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--disable-background-networking"]
    shown = subprocess.run(
        [*words, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    headline = re.search(r"<b>([\d.]+ %)</b><span>test accuracy</span>", page)[1]
    assert f"<b>{headline}</b><span>test accuracy</span>" in shown
    assert shown.count("<svg") == page.count("<svg")


def test_what_a_recipe_makes_itself_is_not_listed_as_left_out(monkeypatch):
    def refuse(study):
        raise LeftOut("it does not apply")

    class Recipe:
        kind = "own"

        def report_sections(self, run):
            return [Section("Proof")]

    class Stub(Study):
        config = type("Config", (), {"recipe": Recipe()})

        def __init__(self):
            self.__dict__.update(experiment=None, run=None)

    monkeypatch.setattr(report_page, "_BEFORE", {"Proof": refuse})
    monkeypatch.setattr(report_page, "_AFTER", {"Other": refuse})
    made, left_out = make_sections(Stub())
    assert [section.title for section in made] == ["Proof"]
    assert left_out == [("Other", "it does not apply.")]
