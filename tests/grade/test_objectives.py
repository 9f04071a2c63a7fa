"""Gradings of what objectives with rows of their own have tuned: prompts with rewards, pairs, labelled answers, documents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from attune.core import rows as core_rows
from attune.core.events import Events
from attune.core.recipe import Recipe, make_recipe
from attune.core.workspace import Workspace
from attune.stages import grade
from attune.stages.grade import stage
from attune.testing.models import tiny_llama
from tests.grade.conftest import make_dataset, release_of, tuned

ITEMS = ("parcel", "refund", "login", "order", "invoice", "address")
VOWELS = {"name": "regex", "pattern": "[aeiou]"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), [f"say a word about the {item} number" for item in ITEMS], vocabulary=290)


@pytest.fixture
def workspace(tmp_path: Path) -> Any:
    made = Workspace(tmp_path / "workspace")
    yield made
    made.close()


def recipe(folder: Path, base: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "speaker",
        "task": {"name": "text_generation", "max_new_tokens": 6},
        "base_model": str(base),
        "method": "full",
        "data": {"path": "rows.jsonl"},
        "train": {"max_length": 48, "epochs": 1, "batch_size": 8},
        "grade": {"resamples": 200, "rivals": ["untouched_base"], "probes": []},
    }
    return make_recipe({**values, **changes}, folder=folder)


def splits(made: Recipe, records: list[dict[str, Any]], columns: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The records as the recipe's task reads them; a third of them tests."""
    rows = []
    for number, values in enumerate(records):
        parsed = made.task.parse(values, columns)
        rows.append({"row_id": core_rows.row_id(parsed, number), "place": f"rows.jsonl:{number + 1}", **parsed})
    test = len(rows) // 3
    return {"train": rows[: -test - 6], "validation": rows[-test - 6 : -test], "test": rows[-test:]}


def prompts(number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"say a word about the {ITEMS[n % 6]} number {n}"} for n in range(number)]


def test_the_approved_release_of_a_run_with_rewards_is_paid_like_the_new_one(llama, workspace, tmp_path):
    rewarded = {"objective": {"name": "grpo", "rewards": [VOWELS], "group": 2, "max_new_tokens": 4}}
    made = recipe(tmp_path, llama, **rewarded)
    dataset = make_dataset(workspace, made, splits(made, prompts(102), {"prompt": "prompt"}))
    checkpoint = tuned(workspace, made, dataset)
    release = release_of(workspace, checkpoint)
    card = grade.run(made, workspace, dataset, checkpoint, Events(), current=release)
    assert card.results["current"]["mean_reward"] == card.results["tuned"]["mean_reward"]
    assert math.isfinite(card.results["tuned"]["mean_reward"].value)
    (gate,) = [gate for gate in card.gates if "current" in gate.gate]
    assert gate.outcome == "inconclusive", gate.reason
    assert "difference 0.000" in gate.reason
    longer = recipe(tmp_path, llama, task={"name": "text_generation", "max_new_tokens": 9}, **rewarded)
    assert stage._current(workspace, longer, release, (0, 0.0)).task.keys.max_new_tokens == 6, "the release answers as it serves"
