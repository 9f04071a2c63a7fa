"""Real small gradings: shipped support tickets, MiniLM with a trained head, made by the loop in a workspace of the test session."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import attune
from attune.core import rows as core_rows
from attune.core.events import Events
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import Checkpoint, DatasetVersion, Release
from attune.core.releases import bundle_digest
from attune.core.workspace import Workspace
from attune.stages import finetune

TICKETS = Path(attune.__file__).parent / "recipes" / "support_tickets" / "tickets_source"
LABELS = ("cancel_order", "damaged_item", "login_problem", "refund_status", "track_order", "wrong_charge")


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"name": "tickets", "task": "text_classification", "method": "head", "data": {"path": "rows.csv"}, "train": {"max_length": 64, "epochs": 3}, "grade": {"resamples": 400}}
    return make_recipe({**values, **changes}, folder=Path("."))


def ticket_rows(per_label: int, labels: tuple[str, ...] = LABELS) -> list[dict[str, Any]]:
    """Rows of the shipped tickets, the labels taking turns."""
    found = []
    texts = {label: [line.split("\t")[0].strip() for line in (TICKETS / f"{label}.txt").read_text(encoding="utf-8").splitlines() if line.strip()][:per_label] for label in labels}
    for number in range(per_label):
        for label in labels:
            values = {"text": texts[label][number], "label": label}
            found.append({"row_id": core_rows.row_id(values, number), "place": f"{label}.txt:{number + 1}", **values})
    return found


def make_dataset(workspace: Workspace, made: Recipe, splits: dict[str, list[dict[str, Any]]], curation: str = "{}") -> DatasetVersion:
    """A dataset version in the workspace's store."""

    def fill(folder: Path) -> None:
        for name, part in splits.items():
            core_rows.write_rows(folder / f"{name}.parquet", part, made.task)
        (folder / "curation.json").write_text(curation, encoding="utf-8")

    counts = {name: len(part) for name, part in splits.items()}
    return workspace.ledger.add(
        DatasetVersion(
            specialist=made.name,
            store_key=workspace.store.put("dataset", fill),
            task=made.task.name,
            signature=made.task.signature(splits["train"]),
            columns={},
            counts={"read": sum(counts.values()), "kept": sum(counts.values()), "repaired": 0, "quarantined": 0, **counts},
            findings={"encoding": 2},
            rows_digest=core_rows.rows_digest((row["row_id"], name) for name, part in splits.items() for row in part),
        )
    )


def cut(all_rows: list[dict[str, Any]], labels: int) -> dict[str, list[dict[str, Any]]]:
    """Half of the rows train, a tenth validates, the rest tests; labels stay balanced because they take turns."""
    turns = len(all_rows) // labels
    train, validation = labels * (turns // 2), labels * max(turns // 10, 1)
    return {"train": all_rows[:train], "validation": all_rows[train : train + validation], "test": all_rows[train + validation :]}


def tuned(workspace: Workspace, made: Recipe, dataset: DatasetVersion, run: str = "run") -> Checkpoint:
    """A checkpoint from the real loop."""
    return workspace.ledger.add(finetune.run(made, workspace, dataset, Events(), run=run))


def release_of(workspace: Workspace, checkpoint: Checkpoint) -> Release:
    """The checkpoint as a release whose folder is the bundle alone."""
    digest = bundle_digest(workspace.store.path(checkpoint.store_key))
    return workspace.ledger.add(
        Release(
            specialist=checkpoint.specialist,
            store_key=checkpoint.store_key,
            version=1,
            checkpoint_id=checkpoint.id,
            scorecard_id="scorecard-none",
            dataset_id=checkpoint.dataset_id,
            verdict="SHIP",
            bundle_digest=digest,
        )
    )


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory):
    """Workspace, recipe, dataset (12 + 2 + 10 rows of each of six labels) and checkpoint."""
    workspace = Workspace(tmp_path_factory.mktemp("grade") / "workspace")
    made = recipe()
    dataset = make_dataset(workspace, made, cut(ticket_rows(24), len(LABELS)))
    yield SimpleNamespace(workspace=workspace, recipe=made, dataset=dataset, checkpoint=tuned(workspace, made, dataset))
    workspace.close()
