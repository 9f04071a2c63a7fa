"""Run folders, events before and after they are known, and what a new checkpoint has to beat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attune.core.events import Events, read_events
from attune.core.recipe import make_recipe
from attune.core.records import Checkpoint, DatasetVersion, Release, Scorecard
from attune.core.runs import open_run, recipe_folder, to_beat
from attune.core.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "workspace")
    yield made
    made.close()


def dataset():
    return DatasetVersion(specialist="claims", store_key="d/1", task="text_classification", signature={}, columns={}, counts={}, findings={}, rows_digest="x")


def checkpoint(workspace, number, task="text_classification", run="claims-1"):
    return workspace.ledger.add(
        Checkpoint(
            specialist="claims", store_key=f"c/{number}", dataset_id="d", task=task, objective="o", method="m", base={}, recipe_digest="r",
            best_step=number, steps=1, main_metric="accuracy", validation={}, curve=(), chosen={}, run=run,
        )
    )  # fmt: skip


def release(workspace, version, made):
    return workspace.ledger.add(Release(specialist="claims", store_key=f"r/{version}", version=version, checkpoint_id=made.id, scorecard_id="s", dataset_id="d", verdict="SHIP", bundle_digest="b"))


def promote(workspace, one, action="promote"):
    workspace.ledger.promote(one, action=action, actor="test", reason="", forced=False)


def test_events_before_the_folder_is_known_are_kept_in_order(tmp_path):
    heard = []
    events = Events(None, [heard.append])
    events.note("first")
    events.progress("rows", 1, 2)
    events.write_to(tmp_path / "run" / "events.jsonl")
    events.note("second")
    assert [one["message"] for one in read_events(tmp_path / "run" / "events.jsonl")] == ["first", "second"]
    assert [one["message"] for one in heard] == ["first", "rows", "second"]


def test_a_run_folder_says_what_was_given_and_what_it_meant(workspace, tmp_path):
    recipe = make_recipe({"name": "claims", "task": "text_classification", "data": {"path": "a.csv"}, "lr": 0.1}, folder=tmp_path)
    folder = open_run(workspace, "claims-1", recipe, dataset(), Events(None))
    assert json.loads((folder / "run.json").read_text())["recipe_digest"] == recipe.digest
    assert "learning_rate: 0.1" in (folder / "recipe.given.yaml").read_text()
    assert "batch_size: 32" in (folder / "recipe.resolved.yaml").read_text()
    made = release(workspace, 1, checkpoint(workspace, 1))
    assert recipe_folder(workspace, made) == tmp_path
    assert recipe_folder(workspace, release(workspace, 2, checkpoint(workspace, 2, run="gone"))) is None


def test_fresh_sets_the_old_folder_aside(workspace, tmp_path):
    recipe = make_recipe({"name": "claims", "task": "text_classification", "data": {"path": "a.csv"}}, folder=tmp_path)
    folder = open_run(workspace, "claims-1", recipe, dataset(), Events(None))
    (folder / "checkpoints").mkdir()
    assert open_run(workspace, "claims-1", recipe, dataset(), Events(None)) == folder
    assert (folder / "checkpoints").is_dir()
    open_run(workspace, "claims-1", recipe, dataset(), Events(None), fresh=True)
    assert not (folder / "checkpoints").exists()
    [aside] = folder.parent.glob("claims-1.until-*")
    assert (aside / "checkpoints").is_dir()


def test_what_a_checkpoint_has_to_beat(workspace):
    one, two = checkpoint(workspace, 1), checkpoint(workspace, 2)
    assert to_beat(workspace, one) is None
    first, second = release(workspace, 1, one), release(workspace, 2, two)
    promote(workspace, first)
    assert to_beat(workspace, two) == first
    assert to_beat(workspace, one) is None, "nothing was approved before it"
    promote(workspace, second)
    assert to_beat(workspace, two) == first, "running the approved recipe again is graded as it was"
    assert to_beat(workspace, one) == second
    promote(workspace, first, "rollback")
    assert to_beat(workspace, one) is None
    assert to_beat(workspace, two) == first


def test_a_release_of_another_task_is_no_opponent(workspace):
    promote(workspace, release(workspace, 1, checkpoint(workspace, 1, task="embedding")))
    assert to_beat(workspace, checkpoint(workspace, 2)) is None


def test_known_results_count_only_while_their_content_is_whole(workspace):
    events, inputs = Events(None), {"a": 1}

    def work():
        return Scorecard(
            specialist="claims", store_key=workspace.store.put("scorecards", lambda folder: (folder / "x").write_text("x")), checkpoint_id="c", dataset_id="d", test_rows=1, test_uses=1,
            confidence=0.9, resamples=200, results={}, comparisons=(), per_class={}, probes={}, gates=(), verdict="SHIP", reasons=(),
        )  # fmt: skip

    assert workspace.known("grade", inputs, Scorecard) is None
    made = workspace.stage("grade", inputs, Scorecard, work, events=events)
    assert workspace.known("grade", inputs, Scorecard) == made
    assert workspace.known("grade", {"a": 2}, Scorecard) is None
    assert workspace.known("grade", inputs, Release) is None
    (Path(workspace.store.root) / made.store_key / "x").write_text("y")
    assert workspace.known("grade", inputs, Scorecard) is None
