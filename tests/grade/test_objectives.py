"""Gradings of what objectives with rows of their own have tuned: prompts with rewards, pairs, labelled answers, documents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core import rows as core_rows
from attune.core.answers import is_right
from attune.core.events import Events
from attune.core.recipe import Recipe, make_recipe
from attune.core.workspace import Workspace
from attune.stages import grade
from attune.stages.grade import stage
from attune.testing.models import tiny_bert, tiny_llama
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
    told = set()
    rewarded = {"objective": {"name": "grpo", "rewards": [VOWELS], "group": 2, "max_new_tokens": 4}}
    made = recipe(tmp_path, llama, **rewarded)
    dataset = make_dataset(workspace, made, splits(made, prompts(102), {"prompt": "prompt"}))
    checkpoint = tuned(workspace, made, dataset)
    release = release_of(workspace, checkpoint)
    card = grade.run(made, workspace, dataset, checkpoint, Events(listeners=(lambda event: told.add((event["kind"], event["message"])),)), current=release)
    assert {("progress", f"{who} writes answers") for who in ("tuned model", "approved release", "untouched base")} <= told
    assert card.results["current"]["mean_reward"] == card.results["tuned"]["mean_reward"]
    assert math.isfinite(card.results["tuned"]["mean_reward"].value)
    (gate,) = [gate for gate in card.gates if "current" in gate.gate]
    assert gate.outcome == "inconclusive", gate.reason
    assert "difference 0.000" in gate.reason
    longer = recipe(tmp_path, llama, task={"name": "text_generation", "max_new_tokens": 9}, **rewarded)
    assert stage._current(workspace, longer, release, (0, 0.0)).task.keys.max_new_tokens == 6, "the release answers as it serves"


def report_of(made: Recipe, workspace: Workspace, dataset: Any) -> str:
    card = grade.run(made, workspace, dataset, tuned(workspace, made, dataset, f"{made.task.name}-{made.objective.name}"), Events())
    return (workspace.store.path(card.store_key) / "report.html").read_text(encoding="utf-8")


WRONG = ("answered wrong", "not word for word", "answered right", "Surest mistakes", "(empty)", "right <", "confidence be trusted")


def test_nothing_is_called_wrong_where_rows_do_not_say_what_is_right(llama, workspace, tmp_path):
    sentences = [{"text": f"The {ITEMS[n % 6]} number {n} is in the {ITEMS[n % 5]} office."} for n in range(60)]
    rewarded = recipe(tmp_path, llama, objective={"name": "grpo", "rewards": [VOWELS], "group": 2, "max_new_tokens": 4})
    documents = recipe(tmp_path, llama, objective="pretraining")
    masks = recipe(tmp_path, tiny_bert(tmp_path / "bert"), task="fill_mask", objective="pretraining")
    for made, records, columns in (
        (rewarded, prompts(60), {"prompt": "prompt"}),
        (documents, sentences, {"completion": "text"}),
        (masks, sentences, {"text": "text"}),
    ):
        page = report_of(made, workspace, make_dataset(workspace, made, splits(made, records, columns)))
        assert "Against its rivals" in page
        for words in WRONG:
            assert words not in page, (made.task.name, made.objective.name, words)


def test_an_answer_marked_as_bad_is_not_what_is_right(llama, workspace, tmp_path):
    made = recipe(tmp_path, llama, objective="kto")
    records = [{**one, "completion": f"The {ITEMS[n % 6]}.", "label": n % 3 > 0} for n, one in enumerate(prompts(60))]
    page = report_of(made, workspace, make_dataset(workspace, made, splits(made, records, {"prompt": "prompt", "completion": "completion", "desirable": "label"})))
    asked = sum(n % 3 > 0 for n in range(40, 60))
    assert f"{asked} of {asked} answers are not word for word the right one; {20 - asked} test rows do not say what is right" in page


def test_hidden_words_that_are_given_are_right_or_wrong():
    task = catalog.build("tasks", "fill_mask")
    assert not task.answered({"text": "The cat sat."})
    assert task.answered({"text": "The [MASK] sat.", "answer": "cat"})
    assert is_right(task, "New York", ["new", "york"])
    assert is_right(task, "parcels", ["parcel", "##s"])
    assert not is_right(task, "New York", ["new", "rome"])
    assert not is_right(task, "New York", ["york"])
