"""Reports of circuits: the drawing, voltages in both phases, power and Kirchhoff's residual."""

import re
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqprop as ep
import eqprop.circuits as ckt
from eqprop.bridges.libngspice import SharedNgspice
from eqprop.train.config import load_config
from eqprop.train.recipes.ngspice import NgspiceRecipe
from eqprop.train.report.circuits import network_sections
from eqprop.train.run import Run, continue_run, new_run

TITLES = ["The circuit", "Node voltages, free and nudged", "Power and Kirchhoff's law"]


def trained(preset, overrides, folder):
    config = load_config(preset, overrides)
    path = new_run(config, folder)
    experiment = config.build()
    try:
        continue_run(path, experiment=experiment)
    finally:
        if experiment.solver.host:
            experiment.solver.bench.close()
    return Run(path)


def sections_of(run):
    made = run.config.recipe.report_sections(run)
    assert [section.title for section in made] == TITLES
    for section in made:
        for picture in section.pictures:
            ET.fromstring(picture.markup)
    return made


def test_a_circuit_of_ngspice_is_drawn_and_accounted_for_without_it(tmp_path):
    # Another circuit is in the simulator of this process: a report must not need it.
    run = trained("xor-ngspice", ["epochs=1"], tmp_path)
    with SharedNgspice("t\nV1 1 0 1\nR1 1 0 1k\n.end"):
        circuit, voltages, power = sections_of(run)
        assert run.experiment().system is not None
    assert "10 free nodes; 6 voltage sources, 68 resistors, 8 SPICE diodes" in circuit.text
    drawn = circuit.pictures[0].markup
    assert {"xp0", "bias1", "h7", "y1"} <= set(re.findall(r">([a-z]+\d)<", drawn))
    assert "var(--ink)" in drawn
    assert "black" not in drawn
    assert [row[0] for row in voltages.table[1:]] == [f"h{k}" for k in range(8)] + ["y0", "y1"]
    assert dict(power.table[1:])["dissipated power, mean"].endswith("W")
    assert "fA" in str(dict(power.table[1:])["Kirchhoff's residual, worst"])
    assert len(power.headlines) == 2


def test_what_a_report_tells_are_the_operating_points():
    network = NgspiceRecipe().network(2, 2, jax.random.key(0))
    inputs, targets = jnp.array([[1.0, -1.0], [0.5, 0.2]]), jnp.array([[0.3, 0.0], [0.0, 0.3]])
    _, voltages, power = network_sections(network, inputs, targets, 1e-6)
    points = ckt.operating_points(network, inputs)
    free = np.array([float(row[1].split()[0]) for row in voltages.table[1:]])
    np.testing.assert_allclose(free, points.state[0], atol=1e-6)
    solver = ckt.GraphNewton(rtol=1e-9)
    eq = ep.settle(network, inputs[0], solver)
    nudged = ep.Forced(network, ep.SquaredError(), targets[0], eq, jnp.asarray(1e-6))
    moved = ep.settle(nudged, inputs[0], solver, free=eq).state - eq.state
    told = [ckt.number(row[2]) for row in voltages.table[1:]]
    np.testing.assert_allclose(told, moved, rtol=6e-3)
    mean = ckt.number(dict(power.table[1:])["dissipated power, mean"])
    assert mean == pytest.approx(float(points.balance.absorbed.mean()), rel=6e-3)


def test_a_deep_resistive_network_has_its_own_sections(tmp_path):
    overrides = ["data.name=digits", "recipe.hidden=[6]", "epochs=1", "precision=float64", "data.train_examples=40"]
    run = trained("drn-xs", [*overrides, "data.test_examples=20"], tmp_path)
    circuit, voltages, power = sections_of(run)
    assert circuit.table[1][:3] == ("1", "128", "6")
    assert [row[0] for row in voltages.table[1:]] == [f"hidden 1 {k}" for k in range(6)] + [
        f"output {k}" for k in range(10)
    ]
    assert power.headlines == ()
    assert run.epochs_done == 1
