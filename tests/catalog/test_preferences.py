"""Objectives dpo and kto: rows, losses and gradients beside a plain computation over padded rows, refusals, learning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from attune.core import catalog
from attune.core.contracts import TripwireContext
from attune.core.errors import DataError
from attune.core.models import resolve_base
from attune.core.recipe import make_recipe
from attune.core.replies import answers_to
from attune.core.specialist import Specialist
from attune.core.tripwires import alarms
from attune.testing.models import tiny_llama

ROWS = [
    {"prompt": "Where is my parcel?", "chosen": "It is on its way to you.", "rejected": "No idea."},
    {"prompt": "Where is my parcel today, please?", "chosen": "It comes tomorrow.", "rejected": "Ask someone else, not me."},
    {"prompt": "I want my money back.", "chosen": "The refund is booked.", "rejected": "No."},
    {"prompt": "Cancel the order.", "chosen": "The order is cancelled.", "rejected": "Orders are for ever and ever."},
]
COLUMNS = {"prompt": "prompt", "completion": "chosen", "rejected": "rejected"}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), [text for row in ROWS for text in row.values()])


def bench(folder: Path, name: str, rows: list[dict[str, Any]], columns: dict[str, str], method: str = "full", **keys: Any) -> tuple[Any, Specialist, list[dict[str, Any]]]:
    """Objective, specialist on its shaped task, and its examples with their reference."""
    objective = catalog.build("objectives", {"name": name, **keys})
    task = objective.shaped(catalog.build("tasks", "text_generation"))
    parsed = [{"row_id": f"r{i}", "place": f"pairs.jsonl:{i + 1}", **task.parse(row, columns)} for i, row in enumerate(rows)]
    base, plug = resolve_base(str(folder)), catalog.build("methods", method)
    specialist = Specialist(task, task.signature(parsed), plug.prepare(task.build(base, task.signature(parsed)), 3), base.tokenizer(), base, 96, "speaker", method=plug)
    examples = objective.examples(specialist, parsed, 96)
    objective.precompute(specialist, examples)
    with torch.no_grad():  # away from the reference
        draw = torch.Generator().manual_seed(4)
        for parameter in specialist.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    return objective, specialist, examples


def plain(body: Any, ids: list[int], begin: int) -> torch.Tensor:
    """Log-probabilities of an answer's tokens by the network's own forward, one row, no tricks."""
    logits = body(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return logits[torch.arange(begin - 1, len(ids) - 1), torch.tensor(ids[begin:])]


def by_hand(kind: str, body: Any, start: Any, example: dict[str, Any], beta: float, gamma: float, flipped: float) -> torch.Tensor:
    """The losses as their papers write them, from plain log-probabilities."""
    own = [plain(body, example["ids"][name], begin) for name, begin in zip(("chosen", "rejected"), example["begin"], strict=True)]
    with torch.no_grad():
        old = [plain(start, example["ids"][name], begin) for name, begin in zip(("chosen", "rejected"), example["begin"], strict=True)]
    ratio = [(a - b).sum() for a, b in zip(own, old, strict=True)]
    h = ratio[0] - ratio[1]
    means = [one.mean() for one in own]
    return {
        "sigmoid": lambda: -torch.log(torch.sigmoid(beta * h)),
        "hinge": lambda: torch.clamp(1 - beta * h, min=0),
        "ipo": lambda: (ratio[0] / len(own[0]) - ratio[1] / len(own[1]) - 1 / (2 * beta)) ** 2,
        "robust": lambda: (-(1 - flipped) * functional.logsigmoid(beta * h) + flipped * functional.logsigmoid(-beta * h)) / (1 - 2 * flipped),
        "orpo": lambda: -means[0] - beta * functional.logsigmoid(torch.log(means[0].exp() / (1 - means[0].exp())) - torch.log(means[1].exp() / (1 - means[1].exp()))),
        "simpo": lambda: -functional.logsigmoid(beta * (means[0] - means[1]) - gamma),
    }[kind]()


def gradients(total: torch.Tensor, body: Any) -> list[torch.Tensor]:
    body.zero_grad()
    total.backward()
    return [p.grad.clone() for p in body.parameters() if p.grad is not None]


def alike(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs) > 5
    for mine, right in zip(ours, theirs, strict=True):
        assert float((mine - right).abs().max()) <= 1e-3 * max(float(right.abs().max()), 1e-3)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "hinge", "robust", "orpo", "simpo"])
@pytest.mark.parametrize("sft", [0.0, 0.5])
def test_dpo_is_what_the_papers_write(base_folder, kind, sft):
    objective, specialist, examples = bench(base_folder, "dpo", ROWS, COLUMNS, loss=kind, beta=0.3, gamma=0.4, sft=sft, **({"flipped": 0.2} if kind == "robust" else {}))
    body, start = specialist.model.body, resolve_base(str(base_folder)).body("AutoModelForCausalLM")
    batch = objective.collate(specialist, examples)
    assert batch["tokens"].shares
    ours, count = objective.loss(specialist.model, batch)
    told = sum(by_hand(kind, body, start, one, 0.3, 0.4, 0.2) - sft * plain(body, one["ids"]["chosen"], one["begin"][0]).mean() for one in examples)
    assert count == len(ROWS)
    assert float(ours) == pytest.approx(float(told), rel=1e-4)
    alike(gradients(ours, body), gradients(told, body))


def test_a_prompt_laid_twice_gives_the_same_loss(base_folder, monkeypatch):
    objective, specialist, examples = bench(base_folder, "dpo", ROWS, COLUMNS)
    shared = float(objective.loss(specialist.model, objective.collate(specialist, examples))[0])
    monkeypatch.setattr(type(specialist.model), "shares", False)
    batch = objective.collate(specialist, examples)
    assert not batch["tokens"].shares
    assert float(objective.loss(specialist.model, batch)[0]) == pytest.approx(shared, rel=1e-5)


def test_the_start_is_the_reference_for_every_method(base_folder):
    """Before training nothing is ahead of anything: the sigmoid loss is log 2 for each pair."""
    for method in ("full", "lora"):
        objective = catalog.build("objectives", "dpo")
        _, specialist, examples = bench(base_folder, "dpo", ROWS, COLUMNS, method)
        fresh = catalog.build("methods", method)
        specialist.model = fresh.prepare(specialist.task.build(specialist.base, specialist.signature), 3)
        total, count = objective.loss(specialist.model, objective.collate(specialist, examples))
        assert float(total) / count == pytest.approx(0.6931, abs=2e-3)


def test_pairs_are_learned(base_folder):
    objective, specialist, examples = bench(base_folder, "dpo", ROWS, COLUMNS)
    batch = objective.collate(specialist, examples)
    optimizer = torch.optim.AdamW(specialist.model.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        total, count = objective.loss(specialist.model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, {"prompt": "instruction", "completion": "chosen", "rejected": "rejected"}),
        ({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]}, {"completion": "chosen", "rejected": "rejected"}),
        ({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}, COLUMNS),
    ],
    ids=["alpaca", "whole conversations", "conversational"],
)  # fmt: skip
def test_shapes_of_pairs(row, columns):
    task = catalog.build("objectives", "dpo").shaped(catalog.build("tasks", "text_generation"))
    assert task.parse(row, columns) == {"prompt": [{"role": "user", "content": "q"}], "completion": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": " a"}, "are equal"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "there is no answer"),
        ({"prompt": "q", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"}, "a turn of the user"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(row, said):
    task = catalog.build("objectives", "dpo").shaped(catalog.build("tasks", "text_generation"))
    with pytest.raises(DataError, match=said):
        task.parse(row, COLUMNS)


def test_long_prompts_lose_the_same_tokens_in_both_answers(base_folder):
    _, specialist, _ = bench(base_folder, "dpo", ROWS, COLUMNS)
    row = {"row_id": "r", "prompt": [{"role": "user", "content": "Where is my parcel? " * 40}]}
    one, other = answers_to(specialist, row, ["No idea.", "It is on its way to you."], 40)
    assert one.cut
    assert max(len(one.ids), len(other.ids)) == 40
    assert one.ids[: one.begin] == other.ids[: other.begin]
    assert one.ids[0] == specialist.tokenizer.bos_token_id
    with pytest.raises(DataError, match="does not fit"):
        answers_to(specialist, row, ["It is on its way to you. " * 20], 40)


@pytest.mark.parametrize("name", ["dpo", "kto", "sft"])
def test_every_row_that_is_too_long_is_named_at_once(base_folder, name):
    objective = catalog.build("objectives", name)
    _, specialist, _ = bench(base_folder, "dpo", ROWS, COLUMNS)
    rows = [
        {"row_id": f"r{i}", "place": f"pairs.jsonl:{i + 1}", "prompt": [{"role": "user", "content": "Where?"}], "completion": "It is on its way to you. " * size, "rejected": "No."}
        for i, size in enumerate((20, 20, 1, 10))
    ]
    with pytest.raises(DataError, match=r"pairs\.jsonl:1, pairs\.jsonl:2, pairs\.jsonl:4: 3 of 4 rows have an answer that does not fit into train\.max_length = 40") as told:
        objective.examples(specialist, [row | {"desirable": True} for row in rows], 40)
    need = int(str(told.value.fix).removeprefix("set train.max_length to ").split()[0])
    assert len(objective.examples(specialist, [row | {"desirable": True} for row in rows], need)) == 4


def test_kto_is_what_the_paper_writes(base_folder):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"] if i % 2 else row["rejected"], "label": bool(i % 2)} for i, row in enumerate(ROWS)]
    columns = {"prompt": "prompt", "completion": "completion", "desirable": "label"}
    objective, specialist, examples = bench(base_folder, "kto", rows, columns, beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    body, start = specialist.model.body, resolve_base(str(base_folder)).body("AutoModelForCausalLM")
    own, moved = [], []
    for one in examples:
        for found, name, begin in zip((own, moved), ("own", "other"), one["begin"], strict=True):
            with torch.no_grad():
                old = plain(start, one["ids"][name], begin).sum()
            found.append(plain(body, one["ids"][name], begin).sum() - old)
    kl = torch.stack(moved).mean().clamp(min=0).detach()
    told = sum((1.5 * (1 - torch.sigmoid(0.3 * (h - kl)))) if row["label"] else 0.7 * (1 - torch.sigmoid(0.3 * (kl - h))) for h, row in zip(own, rows, strict=True))
    ours, count = objective.loss(specialist.model, objective.collate(specialist, examples))
    assert count == len(rows)
    assert float(ours) == pytest.approx(float(told), rel=1e-4)
    alike(gradients(ours, body), gradients(told, body))


@pytest.mark.parametrize(("value", "wanted"), [(True, True), (0, False), ("yes", True), ("bad", False)])
def test_flags_as_people_write_them(value, wanted):
    task = catalog.build("objectives", "kto").shaped(catalog.build("tasks", "text_generation"))
    assert task.parse({"prompt": "q", "completion": "a", "label": value}, {"prompt": "prompt", "completion": "completion", "desirable": "label"})["desirable"] is wanted


def test_flags_that_say_nothing_and_flags_of_one_kind(base_folder):
    task = catalog.build("objectives", "kto").shaped(catalog.build("tasks", "text_generation"))
    for nothing in ("perhaps", None):
        with pytest.raises(DataError, match="does not say"):
            task.parse({"prompt": "q", "completion": "a", "label": nothing}, {"prompt": "prompt", "completion": "completion", "desirable": "label"})
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in ROWS]
    columns = {"prompt": "prompt", "completion": "completion", "desirable": "label"}
    objective, specialist, examples = bench(base_folder, "kto", rows, columns)
    assert [one["desirable"] for one in examples] == [True] * len(ROWS), "validation rows may well be of one kind"
    context = TripwireContext(specialist, objective, [{"row_id": f"r{i}", **task.parse(row, columns)} for i, row in enumerate(rows)])
    assert any("every answer is labelled true" in alarm.what and alarm.blocks for _, alarm in alarms(context, "rows"))  # training rows are not


def test_a_shaped_task_is_the_recipes(tmp_path):
    recipe = make_recipe({"name": "pairs", "task": "text_generation", "objective": "dpo", "data": {"path": "pairs.jsonl"}}, folder=tmp_path)
    assert [role.name for role in recipe.task.roles] == ["prompt", "completion", "rejected", "tools"]
    assert recipe.task.shaped
    assert not copy.copy(catalog.build("tasks", "text_generation")).shaped


def test_preference_objectives_bring_their_own_metrics(tmp_path):
    """The best checkpoint is not chosen by how well generated answers overlap."""
    for objective, metric in (("dpo", "preference_accuracy"), ("kto", "desirable_auc")):
        recipe = make_recipe({"name": "pairs", "task": "text_generation", "objective": objective, "data": {"path": "pairs.jsonl"}}, folder=tmp_path)
        assert recipe.main_metric == metric == recipe.task.defaults.metrics[0]
        assert not catalog.build("metrics", metric).reads_outputs
        assert set(recipe.task.defaults.rivals) <= {"longer_answer", "untouched_base"}
    own = make_recipe({"name": "pairs", "task": "text_generation", "objective": "dpo", "data": {"path": "pairs.jsonl"}, "grade": {"main_metric": "token_f1"}}, folder=tmp_path)
    assert own.main_metric == "token_f1"
    assert catalog.build("tasks", "text_generation").defaults.main_metric == "token_f1"


PREFERENCE = catalog.build("metrics", "preference_accuracy")


def test_what_the_rows_own_answers_are_held_for(base_folder, monkeypatch):
    """Margins and likelihoods beside the network's own forward; nothing is written for them, and rows without preferences have none."""
    _, specialist, examples = bench(base_folder, "dpo", ROWS, COLUMNS)
    body = specialist.model.body
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "completion": row["chosen"], "rejected": row["rejected"]} for row in ROWS]
    examined = specialist.examine(rows)
    monkeypatch.setattr(type(body), "generate", None)
    weighed = specialist.answers_for(PREFERENCE, rows)
    for one, other, example in zip(weighed, examined, examples, strict=True):
        chosen, rejected = (plain(body, example["ids"][name], begin).mean() for name, begin in zip(("chosen", "rejected"), example["begin"], strict=True))
        assert one.extra["margin"] == pytest.approx(float((chosen - rejected).detach()), abs=1e-4)
        assert other.extra["margin"] == pytest.approx(one.extra["margin"], abs=1e-4)
        assert "tokens" in other.extra
    turned = specialist.answers_for(PREFERENCE, [{**row, "completion": row["rejected"], "rejected": row["completion"]} for row in rows])
    assert [one.extra["margin"] for one in turned] == pytest.approx([-one.extra["margin"] for one in weighed], abs=1e-4)
    marked, bare = specialist.answers_for(PREFERENCE, [{"prompt": rows[0]["prompt"], "completion": rows[0]["completion"], "desirable": False}, {"prompt": rows[0]["prompt"]}])
    assert marked.extra["likelihood"] == pytest.approx(float(plain(body, examples[0]["ids"]["chosen"], examples[0]["begin"][0]).mean().detach()), abs=1e-4)
    assert marked.extra["desirable"] is False
    assert bare.extra == {}


def test_an_answer_too_long_to_read_is_weighed_by_its_end(base_folder):
    _, specialist, _ = bench(base_folder, "dpo", ROWS, COLUMNS)
    row = {"prompt": [{"role": "user", "content": "q"}], "completion": "It is on its way to you. " * 60, "rejected": "No."}
    (found,) = specialist.answers_for(PREFERENCE, [row])
    one, other = answers_to(specialist, row, [row["completion"], row["rejected"]], specialist.max_length, whole=False)
    assert (len(one.ids), one.begin, one.cut) == (specialist.max_length, 1, True)
    assert not other.cut
    assert specialist.tokenizer.decode(other.ids[other.begin :], skip_special_tokens=True).strip() == "No."
    held = [plain(specialist.model.body, answer.ids, answer.begin).mean() for answer in (one, other)]
    assert found.extra["margin"] == pytest.approx(float((held[0] - held[1]).detach()), abs=1e-4)
