"""Run folders: the recipe as given and as resolved, what happened, and what a run's result has to beat."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attune.core.commit import write_json, write_text
from attune.core.cost import forecast_key, hand_over
from attune.core.errors import RecipeError
from attune.core.events import Events
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, Release, RetuneRequest, digest, now
from attune.core.rows import ids_of
from attune.core.workspace import Workspace
from attune.core.yaml_reader import dump_yaml

FACTS = "run.json"


@contextmanager
def locked_run(workspace: Workspace, name: str, events: Events) -> Iterator[None]:
    """Hold a run for this process alone; says so when another one has it, and waits until that one is done or dead.

    Whoever waited must look again at what is done by now. The lock lies beside the run's folder, so that it survives the folder's renaming.
    """
    path = workspace.run_folder(name).with_name(f".{name}.lock")
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            events.warn(f"waits for {stream.read().strip() or 'another process'}, which makes the same run '{name}'", run=name)
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} (since {now()[:19].replace('T', ' ')} UTC)")
            stream.flush()
            yield
        finally:
            stream.truncate(0)


@contextmanager
def run_alone(
    workspace: Workspace, name: str, recipe: Recipe, dataset: DatasetVersion, events: Events, *, fresh: bool = False, forecast: tuple[dict[str, Any], dict[str, Any]] | None = None
) -> Iterator[Path]:
    """`open_run` inside `locked_run`; a forecast kept for this recipe with `forecast` (identity of the base, curation's inputs) goes into the folder."""
    with locked_run(workspace, name, events):
        folder = open_run(workspace, name, recipe, dataset, events, fresh=fresh)
        if forecast is not None:
            hand_over(workspace.root, forecast_key(recipe, *forecast), folder)
        yield folder


def open_run(workspace: Workspace, name: str, recipe: Recipe, dataset: DatasetVersion, events: Events, *, fresh: bool = False) -> Path:
    """Make or find a run's folder and send its events there; with `fresh` one that is there is set aside, so that nothing is resumed.

    Call it inside `locked_run`. Recipes that tune alike share a run, also where they grade otherwise: `recipes/` keeps each of them under
    the first digits of its digest, and the two files beside it are those of the newest.
    """
    folder = workspace.run_folder(name)
    if fresh and any(folder.iterdir()):
        folder.rename(folder.with_name(f"{name}.until-{now().replace(':', '')}"))
        folder = workspace.run_folder(name)
    for text, name_of in ((dump_yaml(recipe.given), "given"), (recipe.yaml(), "resolved")):
        write_text(folder / "recipes" / f"{recipe.digest[:12]}.{name_of}.yaml", text)
        write_text(folder / f"recipe.{name_of}.yaml", text)
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


def with_sealed(workspace: Workspace, specialist: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Curation's inputs; where a dataset made of them before would teach rows that a verdict has looked at since, with the digest of those
    rows, so that it is not used again: rows once opened do not train."""
    opened = workspace.ledger.opened_rows(specialist).keys()
    told: set[str] = set()
    while (known := workspace.known("curate", inputs, DatasetVersion)) is not None:
        folder = workspace.store.path(known.store_key)
        learned = {name for split in ("train", "validation") for name in ids_of(folder / f"{split}.parquet")}
        if not (learned & opened) - told:  # nothing, or what the recipe itself gives to learn from
            break
        told |= learned & opened
        inputs = {**inputs, "sealed": digest(sorted(told))}
    return inputs


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
