"""Rows on disk: Parquet, one column per role, read back as they were written; test rows stay sealed and their openings are counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attune.core.contracts import Row, Task
from attune.core.records import DatasetVersion, canonical_json
from attune.core.workspace import Workspace

SPLITS = ("train", "validation", "test")
NESTED = ("messages", "any", "features")
"""Role types kept as JSON text, because their shape may differ from row to row."""
GENERAL = "replay"
"""Key of a row, and column of train.parquet, that is true for general rows (`data.replay`)."""


def row_id(role_values: dict[str, Any], occurrence: int = 0) -> str:
    """A stable id from a row's content; `occurrence` tells exact copies apart."""
    return hashlib.sha256(f"{canonical_json(role_values)}#{occurrence}".encode()).hexdigest()[:20]


def rows_digest(splits: Iterable[tuple[str, str]]) -> str:
    """sha256 over sorted (row_id, split) pairs: the identity of a dataset for ordering and resume."""
    return hashlib.sha256("\n".join(f"{a} {b}" for a, b in sorted(splits)).encode()).hexdigest()


def write_rows(path: Path, rows: Sequence[Row], task: Task) -> None:
    """Write rows as Parquet; nested roles become JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    nested = {role.name for role in task.roles if role.type in NESTED}
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["row_id"]
    columns = {name: [canonical_json(row[name]) if name in nested and row.get(name) is not None else row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path, compression="zstd")


def read_rows(path: Path, task: Task) -> list[Row]:
    """Rows that `write_rows` wrote."""
    import pyarrow.parquet as pq

    nested = {role.name for role in task.roles if role.type in NESTED}
    rows: list[Row] = pq.read_table(path).to_pylist()
    for row in rows:
        for name in nested & row.keys():
            if row[name] is not None:
                row[name] = json.loads(row[name])
    return rows


def ids_of(path: Path) -> list[str]:
    """The row ids of a file that `write_rows` wrote. Nothing else is read: what sealed rows say stays sealed."""
    import pyarrow.parquet as pq

    found: list[str] = pq.read_table(path, columns=["row_id"])["row_id"].to_pylist()
    return found


def dataset_rows(workspace: Workspace, dataset: DatasetVersion, task: Task, split: str) -> list[Row]:
    """Rows of the train or validation split."""
    if split not in ("train", "validation"):
        raise ValueError(f"split '{split}' is sealed or unknown; use open_test_rows")
    return read_rows(workspace.store.path(dataset.store_key) / f"{split}.parquet", task)


def open_test_rows(workspace: Workspace, dataset: DatasetVersion, task: Task, purpose: str) -> tuple[list[Row], int]:
    """The sealed test rows, and the largest number of times that any of them has been opened for this specialist, this time included.

    The opening is counted for every row, and in the ledger before a row's content is read. A row's id comes from its content, so another
    seed, another split or a retune does not make a row fresh that was looked at before.
    """
    path = workspace.store.path(dataset.store_key) / "test.parquet"
    uses = workspace.ledger.use_test_rows(dataset.specialist, dataset.id, ids_of(path), purpose)
    return read_rows(path, task), uses
