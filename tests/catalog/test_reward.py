"""Task reward and objective reward_model: rows, loss beside a plain computation, scores of decoders and encoders, bundles, exports, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from attune.core import catalog
from attune.core.commit import committed_folder
from attune.core.errors import DataError
from attune.core.models import resolve_base
from attune.core.specialist import Specialist, open_bundle, write_bundle
from attune.testing.bench import Bench
from attune.testing.models import CHAT_TEMPLATE, tiny_bert, tiny_llama
from attune.testing.suite import conformance_cases
from tests.catalog.test_preferences import COLUMNS, ROWS, alike, gradients

QUESTION = {"prompt": [{"role": "user", "content": "Where is my parcel?"}], "completion": "It is on its way to you."}


@pytest.fixture(scope="module", params=["decoder", "decoder with a template", "encoder"])
def base_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    if request.param == "encoder":
        return tiny_bert(folder)
    return tiny_llama(folder, [text for row in ROWS for text in row.values()], chat_template=CHAT_TEMPLATE if "template" in request.param else None)


def reward_bench(folder: Path, *, margins: bool = False, method: str = "full", max_length: int = 60, **keys: Any) -> tuple[Any, Specialist, list[dict[str, Any]]]:
    """Objective, specialist with a head that is not zero, and its examples."""
    objective, task, plug = catalog.build("objectives", {"name": "reward_model", **keys}), catalog.build("tasks", "reward"), catalog.build("methods", method)
    columns = COLUMNS | ({"margin": "margin"} if margins else {})
    parsed = [{"row_id": f"r{i}", "place": f"pairs.jsonl:{i + 1}", **task.parse(row | ({"margin": 0.5 * i} if margins else {}), columns)} for i, row in enumerate(ROWS)]
    base = resolve_base(str(folder))
    specialist = Specialist(task, task.signature(parsed), plug.prepare(task.build(base, task.signature(parsed)), 3), base.tokenizer(), base, max_length, "judge", method=plug)
    with torch.no_grad():
        specialist.model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    return objective, specialist, objective.examples(specialist, parsed, max_length)


def by_hand(specialist: Specialist, ids: list[int]) -> torch.Tensor:
    """The score by the network's own forward, one row, no tricks."""
    hidden = specialist.model.body(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return specialist.model.head(hidden[-1] if specialist.model.pooling == "last" else hidden.mean(0))[0]


@pytest.mark.parametrize("margins", [False, True])
def test_the_loss_is_bradley_and_terrys(base_folder, margins):
    objective, specialist, examples = reward_bench(base_folder, margins=margins, centre=0.05)
    specialist.model.eval()
    batch = objective.collate(specialist, examples)
    ours, count = objective.loss(specialist.model, batch)
    told = torch.zeros(())
    for number, one in enumerate(examples):
        chosen, rejected = (by_hand(specialist, one["ids"][name]) for name in ("chosen", "rejected"))
        told = told - functional.logsigmoid(chosen - rejected - (0.5 * number if margins else 0.0)) + 0.05 * (chosen + rejected) ** 2
    assert count == len(ROWS)
    assert float(ours.detach()) == pytest.approx(float(told.detach()), rel=1e-4)
    alike(gradients(ours, specialist.model), gradients(told, specialist.model))


def test_a_decoder_computes_the_prompt_once_and_scores_the_same(tmp_path, monkeypatch):
    folder = tiny_llama(tmp_path, [text for row in ROWS for text in row.values()])
    objective, specialist, examples = reward_bench(folder)
    assert objective.collate(specialist, examples)["tokens"].shares
    once = float(objective.loss(specialist.model, objective.collate(specialist, examples))[0])
    monkeypatch.setattr(type(specialist.model), "shares", False)
    batch = objective.collate(specialist, examples)
    assert not batch["tokens"].shares
    assert float(objective.loss(specialist.model, batch)[0]) == pytest.approx(once, rel=1e-5)
    assert examples[0]["ids"]["chosen"][-1] == specialist.tokenizer.eos_token_id


def test_pairs_are_learned_and_the_bundle_scores_the_same(base_folder, tmp_path):
    objective, specialist, examples = reward_bench(base_folder)
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "completion": row["chosen"], "rejected": row["rejected"]} for row in ROWS]
    optimizer = torch.optim.AdamW(specialist.model.parameters(), lr=2e-3)
    for _ in range(25):
        total, count = objective.loss(specialist.model, objective.collate(specialist, examples))
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    specialist.signature = specialist.task.settle(specialist, [])
    examined = specialist.examine(rows)
    assert [one.output for one in examined] == [row["chosen"] for row in ROWS]
    assert all(one.extra["margin"] > 0 and 0.5 < one.confidence <= 1 for one in examined)
    metric = catalog.build("metrics", "preference_accuracy")
    assert float(metric.value(metric.contributions([], examined, {}).sum(0))) == 1.0
    scores = [one.output for one in specialist.predict([*rows, *({**row, "completion": row["rejected"]} for row in rows)])]
    assert [a - b for a, b in zip(scores[:4], scores[4:], strict=True)] == pytest.approx([one.extra["margin"] for one in examined], abs=1e-4)
    with committed_folder(tmp_path / "bundle") as temporary:
        write_bundle(specialist, temporary)
    again = open_bundle(tmp_path / "bundle").predict([{"prompt": "Where is my parcel?", "completion": rows[0]["completion"]}])
    assert again[0].output == pytest.approx(scores[0], abs=1e-4)


def test_what_does_not_fit_is_refused_in_training_and_cut_in_answering(base_folder):
    objective, specialist, _ = reward_bench(base_folder)
    prompt = [{"role": "user", "content": "Where is my parcel? " * 40}]
    row = {"row_id": "r", "place": "pairs.jsonl:9", "prompt": prompt, "completion": "It is on its way to you.", "rejected": "No idea."}
    (one,) = objective.examples(specialist, [row], 40)
    assert one["cut"]
    assert max(len(ids) for ids in one["ids"].values()) == 40
    answers = [specialist.tokenizer.decode(one["ids"][name], skip_special_tokens=True).lower() for name in ("chosen", "rejected")]
    assert "it is on its way to you" in answers[0]
    assert "no idea" in answers[1]
    long = {**row, "completion": "It is on its way to you. " * 40}
    with pytest.raises(DataError, match=r"does not fit into train\.max_length = 40") as told:
        objective.examples(specialist, [long], 40)
    assert told.value.place == "pairs.jsonl:9"
    specialist.max_length = 40
    answer, other = specialist.predict([long, row])
    assert answer.extra["cut"]
    assert isinstance(answer.output, float)
    assert answer.output != other.output


def test_margins_and_requests_that_say_nothing_are_refused():
    task = catalog.build("tasks", "reward")
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert task.parse({**pair, "margin": "0.5"}, {**COLUMNS, "margin": "margin"})["margin"] == 0.5
    assert task.parse({**pair, "margin": None}, {**COLUMNS, "margin": "margin"})["margin"] is None
    for wrong in ("much", "nan", [1]):
        with pytest.raises(DataError, match="is not a number"):
            task.parse({**pair, "margin": wrong}, {**COLUMNS, "margin": "margin"})
    assert task.request({"prompt": "q", "completion": "a"}) == {"prompt": [{"role": "user", "content": "q"}], "completion": "a"}
    for payload, field in (({"prompt": "q"}, "completion"), ({"prompt": "q", "completion": " "}, "completion"), ({"completion": "a", "prompt": " "}, "prompt"), ({"completion": "a"}, "prompt")):
        with pytest.raises(DataError) as told:
            task.request(payload)
        assert told.value.place == field


def test_an_untouched_base_prefers_nothing(base_folder):
    task, base = catalog.build("tasks", "reward"), resolve_base(str(base_folder))
    untouched = Specialist(task, task.signature([]), task.build(base, task.signature([])), base.tokenizer(), base, 60, "judge")
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "rejected": row["rejected"]} for row in ROWS]
    swapped = [{**row, "completion": row["rejected"], "rejected": row["completion"]} for row in rows]
    metric = catalog.build("metrics", "preference_accuracy")
    assert float(metric.value(metric.contributions([], untouched.examine(rows), {}).sum(0))) == 0.5
    assert [one.output for one in untouched.examine(rows)] == [one.output for one in untouched.examine(swapped)]


@pytest.mark.parametrize(("kind", "name"), [("tasks", "reward"), ("objectives", "reward_model"), ("exports", "transformers"), ("methods", "lora")])
def test_the_suite_holds_for_a_decoder_too(tmp_path, kind, name):
    """The catalog's own cases run on an encoder."""
    task = catalog.build("tasks", "reward")
    records = [{"prompt": row["prompt"] + f" {i}", "completion": row["chosen"] + f" {i}", "rejected": row["rejected"]} for i in range(6) for row in ROWS]
    own = Bench(task, resolve_base(str(tiny_llama(tmp_path / "base", [text for row in records for text in row.values()]))), records, tmp_path / "bench")
    for number, case in enumerate(conformance_cases(kind, name, own_bench=own)):
        room = tmp_path / f"case{number}"
        room.mkdir()
        case.run(room)
