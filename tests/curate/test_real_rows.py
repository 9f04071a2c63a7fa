"""Published data sets as they come: their own leaks are found, their official test rows stay whole."""

from __future__ import annotations

import pytest

from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.workspace import Workspace
from attune.stages import curate as stage
from tests.curate.conftest import Result


def curate(folder, tmp_path, **data) -> Result:
    if not folder.is_dir():
        pytest.skip(f"the data set {folder.name} is not on this machine")
    workspace = Workspace(tmp_path)
    dataset = stage.run(make_recipe({"name": "real", "task": "text_classification", "data": data}, folder=folder), workspace, Events())
    result = Result(dataset, workspace.store.path(dataset.store_key))
    result.adds_up()
    return result


def test_banking77(shared, tmp_path):
    result = curate(shared / "data" / "banking77", tmp_path, path="train.csv", test_path="test.csv")
    counts = result.dataset.counts
    assert (counts["read"], counts["test"]) == (13083, 3080)
    assert len(result.dataset.signature["labels"]) == 77
    assert not result.findings("reading")
    leaks = result.findings("leakage")
    assert len([one for one in leaks if "the same text" in one["reason"]]) >= 20
    assert all(one["file"] == "train.csv" for one in leaks)
    assert len(leaks) < 0.03 * 10003


def test_sms_spam(shared, tmp_path):
    result = curate(shared / "data" / "sms_spam", tmp_path, path="sms_spam.csv")
    assert result.dataset.columns == {"text": "text", "label": "type"}
    assert result.dataset.counts["read"] == 5574
    assert not result.findings("leakage")
    assert {row["label"] for row in result.rows()} == {"ham", "spam"}
