"""The forecast of a learner that a method brings: real rounds on as many rows as there will be, and growth with the rounds."""

from __future__ import annotations

import pytest

from attune.core.errors import MachineError
from attune.core.events import Events
from attune.stages import finetune
from attune.stages.finetune import forecast as general
from attune.stages.finetune import forecast_own as module

from .conftest import make_dataset
from .test_trees import recipe_for, table_rows

pytest.importorskip("lightgbm")


def probed(recipe, rows, counts, folder):
    found = module.probe(recipe, rows, counts, folder)
    assert found is not None
    return found


def test_a_real_probe_says_time_memory_and_disk(tmp_path):
    recipe = recipe_for()
    found = general.forecast(recipe, table_rows(recipe, 400), 700, 100, tmp_path / "not" / "there" / "yet")
    assert found.steps == 40
    assert found.looks == 1 + 40 // 5
    assert not found.may_stop_early, "patience outlasts the plan"
    assert found.seconds == pytest.approx(sum(found.parts.values()), rel=0.01)
    assert {"reading rows", "first step", "steps", "evaluations", "saving", "bundle"} <= found.parts.keys()
    assert found.parts["steps"] > 0
    assert 5e7 < found.memory_bytes < 4e9
    assert found.disk_bytes > 1e4
    assert found.fits
    assert list(tmp_path.iterdir()) == [], "nothing of the probe is left"


def test_what_is_forecast_is_what_a_run_takes(workspace, tmp_path):
    """Steps and bytes, which no other process on the machine changes."""
    recipe = recipe_for(method={"num_iterations": 250, "metric_freq": 10}, train={"checkpoint_every": 200, "patience": 1000})
    rows = table_rows(recipe, 800)
    found = probed(recipe, rows, (560, 160), tmp_path)
    made = finetune.run(recipe, workspace, make_dataset(workspace, recipe, rows), Events(), run="r")
    assert found.steps == made.steps == 250
    assert found.looks == len(made.curve)
    assert found.disk_bytes == pytest.approx(made.cost["disk_bytes"], rel=0.25)
    fewer = probed(recipe_for(method={"num_iterations": 125, "metric_freq": 10}, train={"patience": 1000}), rows, (560, 160), tmp_path)
    assert fewer.disk_bytes < 0.6 * found.disk_bytes, "trees take room: half as many, half as much"


def test_only_so_many_steps_as_there_are_are_made(tmp_path, monkeypatch):
    made = []
    timed = module._timed
    monkeypatch.setattr(module, "_timed", lambda learner, steps: made.extend(steps) or timed(learner, steps))
    recipe = recipe_for(method={"num_iterations": 3})
    assert probed(recipe, table_rows(recipe, 200), (140, 20), tmp_path).steps == 3
    assert made == [0, 1, 2]
    made.clear()
    recipe = recipe_for(method={"num_iterations": 1})
    assert probed(recipe, table_rows(recipe, 200), (140, 20), tmp_path).steps == 1
    assert made == [0]


def test_all_rows_are_laid_out_where_they_can_be(tmp_path, monkeypatch):
    laid = []
    method = type(recipe_for().method)
    learner = method.learner
    monkeypatch.setattr(method, "learner", lambda self, context: laid.append(len(context.examples)) or learner(self, context))
    recipe = recipe_for()
    probed(recipe, table_rows(recipe, 200), (3000, 500), tmp_path)
    assert laid == [3000], "the sample of 200 rows again and again"
    laid.clear()
    monkeypatch.setattr(module, "LAID", 800)
    probed(recipe, table_rows(recipe, 200), (3000, 500), tmp_path)
    assert laid == [200, 800]


def test_beyond_that_memory_and_time_are_a_line_through_two_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LAID", 800)
    monkeypatch.setattr(module, "GROWS", 0)
    peaks = iter([1e8, 2e8, 2.5e8])
    monkeypatch.setattr(module, "peak_memory", lambda: next(peaks))
    monkeypatch.setattr(module, "_timed", lambda learner, steps: [0.1 * len(learner.context.examples) / 200 for index in steps if learner.step(index)])
    recipe = recipe_for()
    found = probed(recipe, table_rows(recipe, 200), (8000, 400), tmp_path)
    assert found.memory_bytes == pytest.approx(2.5e8 + 1e8 / (800 + 400 - 200) * 7200)
    assert found.parts["first step"] == pytest.approx(0.1 * 8000 / 200)
    assert found.parts["steps"] == pytest.approx(39 * 0.1 * 8000 / 200, rel=1e-3)


def test_what_the_first_rounds_would_raise_is_told(tmp_path):
    recipe = recipe_for()
    with pytest.raises(MachineError, match="there is no base model"):
        general._apart(recipe, table_rows(recipe, 60), (42, 6), {"base_model": "./nowhere"}, tmp_path)


def test_a_method_without_a_learner_is_probed_by_descent(recipe_of, tmp_path):
    assert not recipe_of("full").method.brings_learner
    assert recipe_for().method.brings_learner


def test_patience_may_end_it_early(tmp_path):
    recipe = recipe_for(train={"patience": 2})
    assert probed(recipe, table_rows(recipe, 200), (140, 20), tmp_path).may_stop_early
