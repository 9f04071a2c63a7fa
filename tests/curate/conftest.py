"""What the curate tests share: a small clean table and one call from files to a dataset version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from attune.core.events import Events
from attune.core.recipe import make_recipe
from attune.core.records import DatasetVersion
from attune.core.rows import SPLITS
from attune.core.workspace import Workspace
from attune.stages import curate as stage

TOPICS = {
    "refund": ["I want my money back for the {}", "when will the refund for my {} arrive", "please return what I paid for the {}", "the {} was charged twice, pay one back"],
    "delivery": ["where is the parcel with my {}", "the {} has not been delivered yet", "can the courier bring the {} tomorrow", "my {} is stuck at the depot"],
    "broken": ["the {} arrived in pieces", "one leg of the {} is cracked", "the {} does not switch on at all", "there is a deep scratch across the {}"],
}
THINGS = ["lamp", "table", "kettle", "garden chair", "bookcase", "rug", "mirror", "toaster", "sofa", "clock", "wardrobe", "mattress", "desk", "curtain rail", "coffee grinder"]


def clean_rows() -> list[tuple[str, str]]:
    """180 different (text, label) rows of three labels."""
    return [(pattern.format(thing), label) for label, patterns in TOPICS.items() for pattern in patterns for thing in THINGS]


def as_csv(rows: list[tuple[str, str]], header: str = "text,label") -> str:
    return "\n".join([header, *(f'"{text}",{label}' for text, label in rows)]) + "\n"


@dataclass
class Result:
    """A curated dataset with everything a test may look at."""

    dataset: DatasetVersion
    folder: Path
    heard: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, *splits: str) -> list[dict[str, Any]]:
        return [row | {"split": split} for split in splits or SPLITS for row in pq.read_table(self.folder / f"{split}.parquet").to_pylist()]

    @property
    def receipts(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "receipts.parquet").to_pylist()

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "quarantine.parquet").to_pylist()

    def findings(self, check: str) -> list[dict[str, Any]]:
        return [one for one in self.receipts if one["check"] == check]

    def adds_up(self) -> None:
        counts = self.dataset.counts
        assert counts["read"] == counts["kept"] + counts["repaired"] + counts["quarantined"], counts
        assert counts["kept"] + counts["repaired"] == sum(counts[split] for split in SPLITS), counts
        assert counts["quarantined"] == len(self.quarantine)


@pytest.fixture
def curate(tmp_path: Path) -> Callable[..., Result]:
    """curate({"rows.csv": text or bytes}, path="rows.csv", task=..., checks=..., splits=...) -> Result."""

    def call(
        files: dict[str, str | bytes],
        path: Any = None,
        task: Any = "text_classification",
        workspace: Workspace | None = None,
        seed: int = 7,
        extra_rows: Path | None = None,
        previous: DatasetVersion | None = None,
        objective: Any = None,
        **data: Any,
    ) -> Result:
        for name, content in files.items():
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        recipe = make_recipe({"name": "tickets", "task": task, "objective": objective, "seed": seed, "data": {"path": path or next(iter(files)), **data}}, folder=tmp_path)
        heard: list[dict[str, Any]] = []
        place = workspace or Workspace(tmp_path / "workspace")
        dataset = stage.run(recipe, place, Events(listeners=[heard.append]), extra_rows=extra_rows, previous=previous)
        recipe.require_read("data")
        result = Result(dataset, place.store.path(dataset.store_key), heard)
        result.adds_up()
        return result

    return call
