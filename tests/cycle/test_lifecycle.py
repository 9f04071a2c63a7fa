"""The order of the cycle and what a pass hands on; the stages themselves have tests of their own."""

from __future__ import annotations

import inspect
import json

import pytest

from attune import lifecycle
from attune.core.errors import Problems, RecipeError
from attune.core.recipe import make_recipe, read_recipe
from attune.core.records import RetuneRequest
from attune.core.rows import ids_of
from attune.core.workspace import Workspace
from tests.cli.conftest import topic_rows, write_csv


@pytest.fixture
def workspace(tmp_path):
    made = Workspace(tmp_path / "workspace")
    yield made
    made.close()


@pytest.fixture
def recipe(tmp_path):
    texts, labels = topic_rows()
    write_csv(tmp_path / "rows.csv", {"text": texts, "label": labels})

    def make(**changes):
        body = {"name": "claims", "task": "text_classification", "method": "head", "data": {"path": "rows.csv"}, "train": {"epochs": 1}, **changes}
        return make_recipe(body, folder=tmp_path)

    return make


def test_it_fits_on_one_screen():
    assert len(inspect.getsource(lifecycle).splitlines()) < 120


def test_until_ends_the_pass(recipe, workspace):
    heard = []
    workspace.listeners = (lambda event: heard.append((event["message"], event.get("state"))) if event["kind"] == "stage" else None,)
    cycle = lifecycle.run(recipe(), workspace, until="curate")
    assert heard == [("curate", "started"), ("curate", "finished")]
    assert cycle.dataset is not None
    assert cycle.checkpoint is None
    assert (workspace.root / "runs" / cycle.run / "run.json").is_file()


def test_a_dry_pass_changes_nothing_and_stops_at_the_first_thing_to_do(recipe, workspace):
    assert lifecycle.unchanged(recipe(), workspace).dataset is None
    assert not (workspace.root / "runs").exists()
    lifecycle.run(recipe(), workspace, until="curate")
    before = sorted(str(path) for path in workspace.root.rglob("*"))
    cycle = lifecycle.unchanged(recipe(), workspace)
    assert cycle.dataset is not None
    assert cycle.checkpoint is None
    assert sorted(str(path) for path in workspace.root.rglob("*")) == before


def test_the_same_rows_recipe_and_base_make_the_same_run_name(recipe, workspace):
    names = {lifecycle.run(recipe(**changes), workspace, until="curate").run for changes in ({}, {"grade": {"confidence": 0.9}}, {"watch": {"window": "week"}})}
    assert len(names) == 1
    assert lifecycle.run(recipe(seed=8), workspace, until="curate").run not in names
    assert lifecycle.run(recipe(train={"epochs": 2}), workspace, until="curate").run not in names


def test_a_dataset_that_would_teach_rows_opened_since_is_not_used_again(recipe, workspace):
    heard = []
    workspace.listeners = (lambda event: heard.append(event["state"]) if event["kind"] == "stage" else None,)
    first, other = (lifecycle.run(recipe(seed=seed), workspace, until="curate").dataset for seed in (7, 8))

    def ids(dataset, *splits):
        return {name for split in splits for name in ids_of(workspace.store.path(dataset.store_key) / f"{split}.parquet")}

    assert lifecycle.run(recipe(seed=7), workspace, until="curate").dataset == first, "the clean twin: nothing was opened yet"
    workspace.ledger.use_test_rows("claims", other.id, ids(other, "test"), "grade")
    assert ids(first, "train", "validation") & ids(other, "test")
    again = lifecycle.run(recipe(seed=7), workspace, until="curate").dataset
    assert again != first
    assert not ids(again, "train", "validation") & ids(other, "test")
    assert lifecycle.run(recipe(seed=7), workspace, until="curate").dataset == again
    assert lifecycle.unchanged(recipe(seed=7), workspace).dataset == again
    assert lifecycle.run(recipe(seed=8), workspace, until="curate").dataset == other
    assert heard == [*["started", "finished"] * 2, "unchanged", "started", "finished", "unchanged", "unchanged"]


def test_fresh_does_a_stage_again(recipe, workspace):
    heard = []
    workspace.listeners = (lambda event: heard.append(event["state"]) if event["kind"] == "stage" else None,)
    for fresh in (False, False, True):
        lifecycle.run(recipe(), workspace, until="curate", fresh=fresh)
    assert heard == ["started", "finished", "unchanged", "started", "finished"]


def test_a_key_that_the_stage_did_not_read_is_an_error(recipe, workspace, tmp_path):
    texts, labels = topic_rows()
    write_csv(tmp_path / "rows.csv", {"text": texts, "label": labels, "part": [["train", "train", "validation", "test"][n // 3 % 4] for n in range(len(texts))]})
    splits = {"by": "given", "given": "part"}
    assert lifecycle.run(recipe(data={"path": "rows.csv", "splits": splits}), workspace, until="curate").dataset
    with pytest.raises(Problems) as caught:
        lifecycle.run(recipe(data={"path": "rows.csv", "splits": {**splits, "test": 0.3}}), workspace, until="curate")
    assert "data.splits.test: this key was set and nothing read it" in str(caught.value)


def test_a_request_for_another_specialist_is_refused(recipe, workspace, tmp_path):
    key = workspace.store.put("retune", lambda folder: (folder / "new_rows.jsonl").write_text(json.dumps({"text": "x", "label": "y"}) + "\n"))
    request = RetuneRequest(specialist="other", release_id="release-1", window_ids=(), reason="", rows_key=key, new_rows=1)
    with pytest.raises(RecipeError, match="is for 'other'"):
        lifecycle.run(recipe(), workspace, request=request)


def test_recipes_that_tune_alike_share_a_run_and_each_release_carries_its_own(recipe, workspace):
    quick = {"rivals": ["majority"], "probes": [], "resamples": 200}
    ways = [recipe(grade=quick, gates=[{"metric": "accuracy", "at_least": least}]) for least in (0.1, 0.2)]
    cycles = [lifecycle.run(made, workspace) for made in ways]
    assert cycles[0].run == cycles[1].run
    assert cycles[0].checkpoint == cycles[1].checkpoint
    folder = workspace.root / "runs" / cycles[0].run
    assert sorted(path.name for path in (folder / "recipes").iterdir()) == sorted(f"{made.digest[:12]}.{form}.yaml" for made in ways for form in ("given", "resolved"))
    for made, cycle in zip(ways, cycles, strict=True):
        assert read_recipe(folder / "recipes" / f"{made.digest[:12]}.given.yaml").given["gates"] == made.given["gates"]
        assert (folder / "recipes" / f"{made.digest[:12]}.resolved.yaml").read_text() == made.yaml()
        assert cycle.release is not None
        assert cycle.scorecard is not None
        assert cycle.release.scorecard_id == cycle.scorecard.id
        assert (workspace.store.path(cycle.release.store_key) / "recipe.yaml").read_text() == made.yaml(), "the recipe that it was graded with"
    lifecycle.run(ways[0], workspace)
    assert (folder / "recipe.resolved.yaml").read_text() == ways[0].yaml(), "beside it lies the newest"
