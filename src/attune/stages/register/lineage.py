"""Lineage for display: from a release back to the rows it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attune.core.records import Checkpoint, DatasetVersion, Release, Scorecard
from attune.core.rows import SPLITS
from attune.core.workspace import Workspace


def lineage(workspace: Workspace, release: Release) -> dict[str, Any]:
    """The release with its scorecard, checkpoint and dataset as JSON, every ancestor, the promotions, and the rows of each split.

    Of the rows only `row_id` and `place` (file:line) are read, from the sealed test rows too: that shows no text and no answer,
    so it is not counted as a use of them.
    """
    ledger = workspace.ledger
    scorecard, checkpoint, dataset = ledger.get(release.scorecard_id), ledger.get(release.checkpoint_id), ledger.get(release.dataset_id)
    assert isinstance(scorecard, Scorecard)
    assert isinstance(checkpoint, Checkpoint)
    assert isinstance(dataset, DatasetVersion)
    folder = workspace.store.path(dataset.store_key)
    return {
        "release": {"id": release.id, **release.model_dump(mode="json")},
        "scorecard": {"id": scorecard.id, **scorecard.model_dump(mode="json")},
        "checkpoint": {"id": checkpoint.id, **checkpoint.model_dump(mode="json")},
        "dataset": {"id": dataset.id, **dataset.model_dump(mode="json")},
        "rows": {split: _places(folder / f"{split}.parquet") for split in SPLITS},
        "ancestors": [{"id": record.id, "kind": record.kind, "created_at": record.created_at} for record in ledger.lineage(release.id)],
        "promotions": [event for event in ledger.promotions(release.specialist) if event["release_id"] == release.id],
    }


def _places(path: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    found: list[dict[str, str]] = pq.read_table(path, columns=["row_id", "place"]).to_pylist()
    return found
