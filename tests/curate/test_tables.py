"""Which columns become features, what a table's card says, and what the checks make of cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.core import catalog
from attune.core.contracts import CheckContext, RawRecord
from attune.core.errors import DataError, RecipeError
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.rows import dataset_rows
from attune.core.workspace import Workspace
from attune.stages import curate
from attune.stages.curate.columns import detect, profiles, suggestions
from tests.tables import loans, write

NOTES = "the customer called about a late payment number {} and asked whether a part of it could wait until {}"


def records(count: int = 60) -> list[RawRecord]:
    """Loans with columns of every other kind between them."""
    found = []
    for i, one in enumerate(loans(count)):
        more = {
            "row": i + 1,
            "opened": f"2026-{1 + i % 12:02d}-{1 + i % 28:02d}",
            "note": NOTES.format(i, i * 7),
            "empty": "",
            "fold": "train" if i % 2 else "test",
            "height": f"{1.5 + i * i / 9000:.4f}",
        }
        found.append(RawRecord(f"loans.csv:{i + 2}", {**one, **more}))
    return found


@pytest.fixture
def task():
    return catalog.build("tasks", "tabular_classification")


def test_what_is_left_becomes_a_feature_unless_it_looks_like_something_else(task):
    found = profiles(records())
    chosen = detect(task, found, {}, [], records()[:20])
    assert chosen == {"features": ["amount", "age", "purpose", "branch code", "height"], "label": "outcome"}
    told = " ".join(suggestions(task, found, ["amount", "age", "purpose", "branch code", "height", "outcome"], chosen, records()))
    for said in ("'loan id' looks like an id", "'row' looks like an id", "'opened' looks like a time", "'note' holds free text", "'fold' says which split"):
        assert said in told, said


def test_what_is_named_counts_and_a_taken_column_does_not(task):
    found = profiles(records())
    assert detect(task, found, {"features": ["age", "row"]}, [], records()[:20]) == {"features": ["age", "row"], "label": "outcome"}
    assert detect(task, found, {"features": "age", "label": "purpose"}, [], records()[:20]) == {"features": ["age"], "label": "purpose"}
    assert "amount" not in detect(task, found, {}, ["amount"], records()[:20])["features"]


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"features": ["age", "agee"]}, DataError, "no column 'agee'"),
        ({"features": ["age", "age"]}, DataError, "'age' is named twice"),
        ({"features": ["age", "outcome"], "label": "outcome"}, DataError, "given as features and as label"),
        ({"label": ["outcome", "age"]}, RecipeError, "2 columns are given as label"),
        ({"features": []}, RecipeError, "0 columns are given"),
    ],
)
def test_columns_that_cannot_be_meant(task, given, kind, said):
    with pytest.raises(kind, match=said):
        detect(task, profiles(records()), given, [], records()[:20])


def test_only_a_label_is_not_a_table(task):
    rows = [RawRecord(f"x.csv:{i}", {"id": f"a{i}", "outcome": "yes" if i % 2 else "no"}) for i in range(30)]
    with pytest.raises(DataError, match="no column looks like the features"):
        detect(task, profiles(rows), {}, [], rows[:20])


@pytest.fixture
def made(tmp_path):
    """A curated table with every fault a cell can have."""
    rows = loans(300)
    rows[1] |= {"amount": "", "age": "?", "purpose": "N/A", "branch code": ""}
    rows[2] |= {"outcome": " "}
    rows[3] |= {"outcome": "Kept" if rows[3]["outcome"] == "kept" else "Late"}
    rows[5] = {**rows[4], "loan id": "again"}
    write(tmp_path / "loans.csv", rows)
    recipe = make_recipe({"name": "loans", "task": "tabular_classification", "data": {"path": "loans.csv"}}, folder=tmp_path)
    workspace = Workspace(tmp_path / "workspace")
    yield recipe, workspace, curate.run(recipe, workspace, Events())
    workspace.close()


def test_the_gate_sets_aside_what_says_nothing_and_keeps_missing_cells(made):
    recipe, workspace, dataset = made
    assert {name: dataset.counts[name] for name in ("read", "kept", "repaired", "quarantined")} == {"read": 300, "kept": 297, "repaired": 1, "quarantined": 2}
    assert dataset.columns == {"features": ["amount", "age", "purpose", "branch code"], "label": "outcome"}
    assert [one["kind"] for one in dataset.signature["features"]] == ["number", "number", "number", "category"]
    train = dataset_rows(workspace, dataset, recipe.task, "train")
    assert any(row["features"]["age"] is None for row in train)
    assert all(set(row["features"]) == {"amount", "age", "purpose", "branch code"} for row in train)
    folder = workspace.store.path(dataset.store_key)
    card = (folder / "card.md").read_text()
    for said in ("## Features", "| age | number |", "| purpose | category |", "features = 4 columns", "the features are all missing", "misspelt label"):
        assert said in card, said


def test_rows_that_are_equal_stay_together_and_are_kept(made):
    recipe, workspace, dataset = made
    twin = recipe.task.text({"features": recipe.task.parse(loans(300)[4], dataset.columns)["features"]})
    from attune.core.rows import read_rows

    folder = workspace.store.path(dataset.store_key)
    places = [split for split in ("train", "validation", "test") for row in read_rows(folder / f"{split}.parquet", recipe.task) if recipe.task.text(row) == twin]
    assert len(places) == 2
    assert len(set(places)) == 1


def test_checks_compare_all_cells_and_not_their_words(task):
    cells = [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 2, "b": "x"}]
    rows = [{"row_id": f"r{i}", "place": f"f:{i}", "features": one, "label": "yes" if i else "no"} for i, one in enumerate(cells)]
    context = CheckContext(task, {}, 1, {"r0": "train", "r1": "train", "r2": "test"})
    assert [one.row_id for one in catalog.build("checks", "exact_duplicates").examine(rows, context)] == ["r2"]
    leaks = list(catalog.build("checks", "leakage").examine(rows, context))
    assert [(one.row_id, one.related) for one in leaks] == [("r1", "r2")]
    assert "the same features as f:2" in leaks[0].reason
    nothing = {"row_id": "r", "place": "f:9", "features": {"a": None, "b": None}, "label": "yes"}
    assert [one.action for one in catalog.build("checks", "types").examine([nothing], context)] == ["quarantine"]


@pytest.mark.parametrize(("cell", "said"), [(float("inf"), "infinite"), ([1], "holds a list"), ({"x": 1}, "holds a dict")])
def test_cells_that_are_no_cells(task, cell, said):
    with pytest.raises(DataError, match=said):
        task.parse({"a": cell, "y": "yes"}, {"features": ["a"], "label": "y"})


def test_labels_that_are_numbers_are_names(task):
    columns = {"features": ["a"], "label": "y"}
    assert [task.parse({"a": 1, "y": value}, columns)["label"] for value in (1, 1.0, 0.5, True, "1")] == ["1", "1", "0.5", "true", "1"]


def test_a_recipe_names_a_base_or_gets_the_tasks_own(tmp_path):
    values = {"name": "loans", "task": "tabular_classification", "data": {"path": "x.csv"}}
    assert make_recipe(values, folder=Path(".")).resolved()["base_model"] == "none"
    assert make_recipe({**values, "base_model": "general"}, folder=Path(".")).keys.base_model == "general"
    assert make_recipe({**values, "task": "text_classification"}, folder=Path(".")).keys.base_model.startswith("package:")
