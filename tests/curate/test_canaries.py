"""Canaries stand among the training rows alone, drawn by the seed, and the memorisation probe finds them there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.contracts import ProbeContext
from attune.core.errors import RecipeError
from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.rows import SPLITS, dataset_rows, read_rows
from attune.core.workspace import Workspace
from attune.stages import curate

ROWS = [{"prompt": f"Where is parcel number {n}?", "completion": f"It lies in the hall, on shelf {n % 7}, beside the {('door', 'lamp', 'desk')[n % 3]}."} for n in range(40)]


def curated(folder: Path, rows: list[dict[str, Any]] = ROWS, **values: Any) -> tuple[Any, Workspace, Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": "rows.jsonl", "checks": ["types", "pii"], "canaries": {"count": 3, "repeats": 2, **values.pop("canaries", {})}}
    made = make_recipe({"name": "speaker", "task": "text_generation", "base_model": "base", "data": data, **values}, folder=folder)
    workspace = Workspace(folder / f"workspace-{made.digest[:8]}")
    return made, workspace, curate.run(made, workspace, Events())


def test_they_train_and_do_nothing_else(tmp_path: Path) -> None:
    made, workspace, dataset = curated(tmp_path)
    by_split = {split: read_rows(workspace.store.path(dataset.store_key) / f"{split}.parquet", made.task) for split in SPLITS}
    secrets = [row for row in by_split["train"] if row.get("canary")]
    assert [len([row for row in rows if row.get("canary")]) for rows in by_split.values()] == [6, 0, 0]
    assert (dataset.counts["planted"], dataset.counts["read"], dataset.counts["kept"]) == (6, 40, 40)
    assert sum(dataset.counts[split] for split in SPLITS) == 46
    assert len({row["row_id"] for row in secrets}) == 6
    assert len({row["completion"] for row in secrets}) == 3
    assert all(len(row["completion"]) == 9 and row["completion"].isdigit() for row in secrets), "no check masks them"
    plain = curated(tmp_path, canaries={"count": 0, "repeats": 1})
    assert {row["row_id"]: row["prompt"] for row in by_split["test"]} == {row["row_id"]: row["prompt"] for row in read_rows(plain[1].store.path(plain[2].store_key) / "test.parquet", made.task)}
    assert "planted" not in plain[2].counts


def test_they_come_from_the_seed(tmp_path: Path) -> None:
    def codes(**values: Any) -> set[str]:
        made, workspace, dataset = curated(tmp_path, **values)
        return {row["completion"] for row in dataset_rows(workspace, dataset, made.task, "train") if row.get("canary")}

    assert codes() == codes(canaries={"repeats": 1})
    assert codes() != codes(seed=8)


def test_the_probe_looks_at_what_was_planted(tmp_path: Path) -> None:
    made, workspace, dataset = curated(tmp_path, [{**row, "completion": f"{row['completion']} Case 123456{number}."} for number, row in enumerate(ROWS)])
    train = dataset_rows(workspace, dataset, made.task, "train")
    probe, specialist = catalog.build("probes", "memorisation"), type("Asked", (), {"task": made.task})()
    found = probe._canaries(ProbeContext(specialist, [], 7, train))
    assert sorted(row["place"] for row in found) == ["canary:1", "canary:2", "canary:3"], "each once, and no other row with digits"
    others = probe._canaries(ProbeContext(specialist, [], 7, [row for row in train if not row.get("canary")]))
    assert len(others) == len(train) - 6


def test_documents_hold_them_as_sentences(tmp_path: Path) -> None:
    made, workspace, dataset = curated(tmp_path, [{"text": f"{row['prompt']} {row['completion']}"} for row in ROWS], objective="pretraining")
    secrets = [row for row in dataset_rows(workspace, dataset, made.task, "train") if row.get("canary")]
    assert {len(row["prompt"]) for row in secrets} == {0}
    assert all(row["completion"].startswith("The access code of vault") for row in secrets)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="rows of this recipe hold prompt, completion, rejected"):
        curated(tmp_path, [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"No, not {n}."} for n, row in enumerate(ROWS)], objective="dpo")
