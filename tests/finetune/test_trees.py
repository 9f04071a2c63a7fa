"""Boosted trees go through the one loop: the same records, the same resume, the same early stopping; and from a general model's trees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attune.core import rows
from attune.core.errors import PlugError, Problems
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.specialist import open_bundle
from attune.stages import finetune
from tests.tables import loans

from .conftest import make_dataset
from .test_resume import Stopped, stop_at

pytest.importorskip("lightgbm")
COLUMNS = {"features": ["amount", "age", "purpose", "branch code"], "label": "outcome"}
METHOD = {"name": "boosted_trees", "num_iterations": 40, "metric_freq": 5, "num_leaves": 7, "min_data_in_leaf": 5, "feature_fraction": 0.5, "lambda_l2": 1.0}


def recipe_for(method=(), train=(), task=(), **more):
    task = {"name": "tabular_classification", "categories": ["branch code"], **dict(task)}
    train = {"learning_rate": 0.1, "checkpoint_every": 3, "patience": 40, **dict(train)}
    return make_recipe({"name": "loans", "task": task, "method": {**METHOD, **dict(method)}, "data": {"path": "rows.csv"}, "train": train, **more}, folder=Path("."))


def table_rows(recipe, count, **more):
    found = []
    for i, record in enumerate(loans(count, **more)):
        values = recipe.task.parse(record, COLUMNS)
        found.append({"row_id": rows.row_id(values, i), "place": f"rows:{i}", **values})
    return found


@pytest.mark.parametrize("labels", [("kept", "late"), ("kept", "late", "lost")])
def test_stop_and_resume_is_bit_identical(workspace, labels):
    recipe = recipe_for()
    dataset = make_dataset(workspace, recipe, table_rows(recipe, 400, labels=labels))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    for step in (2, 7, 20, 39):
        with pytest.raises(Stopped):
            finetune.run(recipe, workspace, dataset, stop_at(step), run="broken")
    again = finetune.run(recipe, workspace, dataset, Events(), run="broken")
    assert again.store_key == whole.store_key
    assert again.curve == whole.curve
    over = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    assert over.store_key == whole.store_key, "killed behind the last step: nothing is left to grow, and the same is written"
    assert whole.best_step > 5
    assert whole.curve[-1]["loss"] < whole.curve[1]["loss"]


def test_a_resume_that_draws_columns_otherwise_would_differ(workspace, monkeypatch):
    """The must-fail twin: columns drawn from LightGBM's own stream are not the same after a resume."""
    from attune.core import catalog

    module = sys.modules[catalog.load("methods", "boosted_trees").__module__]
    monkeypatch.setattr(module._Boosting, "_seeds", lambda self, index: {})
    recipe = recipe_for()
    dataset = make_dataset(workspace, recipe, table_rows(recipe, 400))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    with pytest.raises(Stopped):
        finetune.run(recipe, workspace, dataset, stop_at(7), run="broken")
    assert finetune.run(recipe, workspace, dataset, Events(), run="broken").store_key != whole.store_key


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.finetune.test_trees import make_dataset, recipe_for, table_rows
from attune.core.workspace import Workspace
from attune.core.events import Events
from attune.stages import finetune
workspace, recipe = Workspace(sys.argv[2]), recipe_for()
dataset = make_dataset(workspace, recipe, table_rows(recipe, 400))
listener = lambda e: print("step", e["done"], flush=True) if (e["kind"], e["message"]) == ("progress", "train") else None
print("done", finetune.run(recipe, workspace, dataset, Events(None, [listener]), run="r").store_key, flush=True)
"""


def start(workspace: Path) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", CHILD, str(root), str(workspace)], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_sigkill_and_resume_in_another_process(tmp_path):
    whole, _ = start(tmp_path / "whole").communicate(timeout=120)
    child = start(tmp_path / "killed")
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("step") and int(line.split()[1]) >= 17:
            child.send_signal(signal.SIGKILL)
            break
    child.wait(timeout=60)
    assert child.returncode == -signal.SIGKILL
    again, _ = start(tmp_path / "killed").communicate(timeout=120)
    assert int(again.split()[1]) > 1, "the last start must have resumed"
    assert again.splitlines()[-1] == whole.splitlines()[-1]


def test_the_loop_stops_early_and_keeps_the_best_rounds(workspace):
    recipe = recipe_for(method={"num_iterations": 400}, train={"patience": 2, "learning_rate": 0.3})
    dataset = make_dataset(workspace, recipe, table_rows(recipe, 400))
    made = finetune.run(recipe, workspace, dataset, Events(), run="r")
    assert made.best_step < made.steps < 400
    specialist = open_bundle(workspace.store.path(made.store_key))
    assert specialist.model._booster.current_iteration() == made.best_step
    assert specialist.tokenizer is None
    validation = rows.dataset_rows(workspace, dataset, recipe.task, "validation")
    surprise = -np.mean([np.log(answer.scores[row["label"]]) for row, answer in zip(validation, specialist.predict(validation), strict=True)])
    assert surprise == pytest.approx(made.validation["log_loss"], abs=1e-12)
    assert {"learning rate", "threads", "trees"} <= set(made.chosen)
    assert "precision" not in made.chosen, "no number format where there are no matrix products"


KEYS = {
    "num_leaves": 3,
    "max_depth": 1,
    "min_data_in_leaf": 60,
    "min_gain_to_split": 20.0,
    "lambda_l1": 5.0,
    "lambda_l2": 50.0,
    "feature_fraction": 1.0,
    "max_bin": 4,
    "num_iterations": 9,
    "metric_freq": 4,
}


def test_every_key_changes_something(workspace):
    base = recipe_for()
    dataset = make_dataset(workspace, base, table_rows(base, 400))
    first = finetune.run(base, workspace, dataset, Events(), run="base")
    for number, (key, value) in enumerate(KEYS.items()):
        other = finetune.run(recipe_for({key: value}), workspace, dataset, Events(), run=f"r{number}")
        assert (other.store_key, other.curve) != (first.store_key, first.curve), key
    slow = finetune.run(recipe_for(train={"learning_rate": 0.01}), workspace, dataset, Events(), run="slow")
    balanced = finetune.run(recipe_for(objective={"name": "table_labels", "class_weight": "balanced"}), workspace, dataset, Events(), run="balanced")
    assert len({first.store_key, slow.store_key, balanced.store_key}) == 3


@pytest.mark.parametrize("key", [{"epochs": 3}, {"batch_size": 8}, {"max_length": 64}, {"precision": "fp32"}, {"weight_decay": 0.1}, {"refit": True}])
def test_keys_of_gradient_descent_are_refused(workspace, key):
    recipe = recipe_for(train=key)
    with pytest.raises(Problems, match=rf"train\.{next(iter(key))}: this key was set and nothing read it"):
        finetune.run(recipe, workspace, make_dataset(workspace, recipe, table_rows(recipe, 200)), Events(), run="r")


@pytest.fixture
def general(workspace, tmp_path):
    """A general model: the trees of a specialist on many loans, as its bundle holds them."""
    recipe = recipe_for()
    made = finetune.run(recipe, workspace, make_dataset(workspace, recipe, table_rows(recipe, 1500, number=1)), Events(), run="general")
    return workspace.store.path(made.store_key) / "model"


def test_it_goes_on_from_a_general_model(workspace, general):
    recipe = recipe_for(base_model=str(general))
    few = make_dataset(workspace, recipe, table_rows(recipe, 80))
    whole = finetune.run(recipe, workspace, few, Events(), run="whole")
    alone = finetune.run(recipe_for(), workspace, few, Events(), run="alone")
    assert "continued from" in whole.chosen["trees"]
    assert whole.validation["log_loss"] < alone.validation["log_loss"], "what many loans taught is kept"
    earlier, tuned = (general / "model.txt").read_text(), (workspace.store.path(whole.store_key) / "model" / "model.txt").read_text()
    trees = [text[text.index("Tree=0") : text.index("end of trees")].strip() for text in (earlier, tuned)]
    assert trees[1].startswith(trees[0]), "trees are added, those of the general model stay"
    with pytest.raises(Stopped):
        finetune.run(recipe, workspace, few, stop_at(7), run="broken")
    assert finetune.run(recipe, workspace, few, Events(), run="broken").store_key == whole.store_key
    assert finetune.inputs(recipe, few)["base"]["digest"] != finetune.inputs(recipe_for(), few)["base"]["digest"]


def test_new_categories_stand_behind_those_of_the_general_model(workspace, general):
    recipe = recipe_for(base_model=str(general))
    known = recipe.task.build(recipe_base(recipe), recipe.task.signature(table_rows(recipe, 80))).features
    more = table_rows(recipe, 80)
    more[0]["features"]["purpose"] = "a boat"
    built = recipe.task.build(recipe_base(recipe), recipe.task.signature(more))
    before, after = (next(one["categories"] for one in features if one["name"] == "purpose") for features in (known, built.features))
    assert after == [*before, "a boat"]
    assert np.array_equal(
        built.probabilities(built.table([more[1]["features"]])), recipe.task.build(recipe_base(recipe), recipe.task.signature(table_rows(recipe, 80))).probabilities(built.table([more[1]["features"]]))
    )


def recipe_base(recipe):
    from attune.core.models import resolve_base

    return resolve_base(recipe.keys.base_model, None, recipe.folder)


def test_a_general_model_of_another_table_is_refused(workspace, general):
    recipe = recipe_for(base_model=str(general))
    others = table_rows(recipe, 80, labels=("kept", "late", "lost"))
    with pytest.raises(PlugError, match="'kept', 'late' apart, the rows hold 'kept', 'late', 'lost'"):
        finetune.run(recipe, workspace, make_dataset(workspace, recipe, others), Events(), run="labels")
    fewer = table_rows(recipe, 80)
    for row in fewer:
        del row["features"]["age"]
    with pytest.raises(PlugError, match=r"the general model reads .* the rows hold") as refused:
        finetune.run(recipe, workspace, make_dataset(workspace, recipe, fewer), Events(), run="columns")
    assert 'features: ["age", "amount", "branch code", "purpose"]' in refused.value.fix


def test_plugs_that_read_texts_are_refused_with_their_reason():
    wrong = {
        "data": {"path": "rows.csv", "checks": ["near_duplicates"]},
        "grade": {"rivals": ["linear", "retrieval", "lexical"], "probes": ["robustness"]},
        "watch": {"detectors": ["embedding_shift"]},
        "exports": ["transformers"],
        "objective": "supervised",
    }
    with pytest.raises(Problems) as refused:
        make_recipe({"name": "loans", "task": "tabular_classification", **wrong}, folder=Path("."))
    for name in ("near_duplicates", "linear", "retrieval", "lexical", "robustness", "embedding_shift", "transformers", "supervised"):
        assert f"'{name}' does not fit task 'tabular_classification': it needs" in str(refused.value)
    with pytest.raises(Problems, match="method 'lora' does not fit"):
        make_recipe({"name": "loans", "task": "tabular_classification", "method": "lora", "data": {"path": "rows.csv"}}, folder=Path("."))
    with pytest.raises(Problems, match="method 'boosted_trees' does not fit task 'text_classification': it needs table-in"):
        make_recipe({"name": "loans", "task": "text_classification", "method": "boosted_trees", "data": {"path": "rows.csv"}}, folder=Path("."))


def test_a_lowered_rate_outlives_a_resume():
    from attune.testing import bench

    tables = bench("tabular_classification")
    method, objective = tables.method(), tables.objective()

    def learner():
        specialist = tables.prepared(method)
        return method.learner(tables.context(objective, specialist, tables.examples(objective, specialist)))

    first, second = learner(), learner()
    first.step(0)
    first.lower()
    second.load_state(*first.state())
    assert (second.lowered, learner().lowered) == (True, False)
    assert second.step(1)["learning_rate"] == method.learning_rate / 2
