"""Making a release: the bundle, its scorecard, its drift reference, its model card and the resolved recipe in one committed folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from attune.core.commit import MANIFEST, manifest_of
from attune.core.errors import IntegrityError
from attune.core.events import Events
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, Release, Scorecard
from attune.core.releases import bundle_digest
from attune.core.workspace import Workspace
from attune.stages.register.card import model_card


def inputs(recipe: Recipe, checkpoint: Checkpoint, scorecard: Scorecard) -> dict[str, Any]:
    """What a release depends on: the checkpoint, its scorecard and the recipe that travels with them."""
    return {"checkpoint": checkpoint.id, "scorecard": scorecard.id, "recipe": recipe.digest}


def run(recipe: Recipe, workspace: Workspace, checkpoint: Checkpoint, scorecard: Scorecard, events: Events) -> Release:
    """Make the next version of the specialist; it is not approved by this.

    Raises:
        IntegrityError: the scorecard grades another checkpoint, or a stored folder is not what was committed.
    """
    if scorecard.checkpoint_id != checkpoint.id or scorecard.dataset_id != checkpoint.dataset_id:
        raise IntegrityError(f"scorecard '{scorecard.id}' does not grade checkpoint '{checkpoint.id}' on its own data", place="register", fix="grade this checkpoint, then register")
    dataset = workspace.ledger.get(checkpoint.dataset_id)
    assert isinstance(dataset, DatasetVersion)
    version = 1 + max((known.version for known in workspace.ledger.find(Release, recipe.name)), default=0)
    bundle = workspace.store.path(checkpoint.store_key)
    graded = workspace.store.path(scorecard.store_key)
    digest = bundle_digest(bundle)

    def fill(folder: Path) -> None:
        for name in manifest_of(bundle)["files"]:
            _copy(bundle / name, folder / name)
        for path in [graded / "scorecard.json", *sorted(graded.glob("reference.*")), *sorted(graded.glob("reference_*"))]:
            _copy(path, folder / path.name)
        (folder / "recipe.yaml").write_text(recipe.yaml(), encoding="utf-8")
        hashes = {name: facts["sha256"] for name, facts in manifest_of(bundle)["files"].items()}
        (folder / "README.md").write_text(model_card(recipe, dataset, checkpoint, scorecard, version, digest, hashes), encoding="utf-8")

    key = workspace.store.put("release", fill)
    events.note(f"release {version} of '{recipe.name}' is registered with verdict {scorecard.verdict}", version=version, verdict=scorecard.verdict)
    return Release(
        specialist=recipe.name,
        parents=(checkpoint.id, scorecard.id),
        store_key=key,
        version=version,
        checkpoint_id=checkpoint.id,
        scorecard_id=scorecard.id,
        dataset_id=checkpoint.dataset_id,
        verdict=scorecard.verdict,
        bundle_digest=digest,
    )


def _copy(source: Path, target: Path) -> None:
    if target.name == MANIFEST:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
