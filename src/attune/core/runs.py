"""Run folders: the recipe as given and as resolved, what happened, and what a run's result has to beat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attune.core.commit import write_json, write_text
from attune.core.errors import RecipeError
from attune.core.events import Events
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, Release, RetuneRequest, now
from attune.core.workspace import Workspace
from attune.core.yaml_reader import dump_yaml

FACTS = "run.json"


def open_run(workspace: Workspace, name: str, recipe: Recipe, dataset: DatasetVersion, events: Events, *, fresh: bool = False) -> Path:
    """Make or find a run's folder and send its events there; with `fresh` one that is there is set aside, so that nothing is resumed."""
    folder = workspace.run_folder(name)
    if fresh and any(folder.iterdir()):
        folder.rename(folder.with_name(f"{name}.until-{now().replace(':', '')}"))
        folder = workspace.run_folder(name)
    write_text(folder / "recipe.given.yaml", dump_yaml(recipe.given))
    write_text(folder / "recipe.resolved.yaml", recipe.yaml())
    facts = {"run": name, "specialist": recipe.name, "dataset": dataset.id, "recipe_folder": str(recipe.folder), "recipe_digest": recipe.digest}
    write_json(folder / FACTS, facts)
    events.write_to(folder / "events.jsonl")
    events.emit("run", name, folder=str(folder))
    return folder


def recipe_folder(workspace: Workspace, release: Release) -> Path | None:
    """The folder of the recipe that made a release, from which a relative base model is found; None when its run folder is gone."""
    checkpoint = workspace.ledger.get(release.checkpoint_id)
    assert isinstance(checkpoint, Checkpoint)
    facts = workspace.root / "runs" / checkpoint.run / FACTS
    return Path(json.loads(facts.read_text(encoding="utf-8"))["recipe_folder"]) if facts.is_file() else None


def to_beat(workspace: Workspace, checkpoint: Checkpoint) -> Release | None:
    """The approved release that a new checkpoint has to beat, if it does the same task.

    For a checkpoint that is itself the approved one it is what was approved before it, so that running its recipe again changes nothing.
    """
    found: Release | None = None
    approved = [workspace.ledger.get(event["release_id"]) for event in workspace.ledger.promotions(checkpoint.specialist)]
    itself = bool(approved) and getattr(approved[-1], "checkpoint_id", None) == checkpoint.id
    for release in approved:
        assert isinstance(release, Release)
        if itself and release.checkpoint_id == checkpoint.id:
            break
        found = release
    tuned = workspace.ledger.get(found.checkpoint_id) if found is not None else None
    return found if isinstance(tuned, Checkpoint) and tuned.task == checkpoint.task else None


def added_rows(recipe: Recipe, workspace: Workspace, request: RetuneRequest) -> dict[str, Any]:
    """What curation gets from a retune request: the file of its new rows, and the dataset that they are added to.

    Raises:
        RecipeError: the request is for another specialist than the recipe's.
    """
    if request.specialist != recipe.name:
        raise RecipeError(f"request {request.id} is for '{request.specialist}', the recipe describes '{recipe.name}'", place="--from-request", fix=f"give the recipe of '{request.specialist}'")
    release = workspace.ledger.get(request.release_id)
    assert isinstance(release, Release)
    return {"extra_rows": workspace.store.path(request.rows_key) / "new_rows.jsonl", "previous": workspace.ledger.get(release.dataset_id)}
