"""Task text_generation with objective sft: row shapes, learning to answer and to stop, refusals, the base with real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog, commit
from attune.core.errors import DataError, PlugError
from attune.core.long_rows import encoded
from attune.core.models import resolve_base
from attune.core.receipts import ASIDE
from attune.core.rows import GENERAL
from attune.core.specialist import Specialist, open_bundle, write_bundle
from attune.testing.models import tiny_llama

PAIRS = [
    ("Where is my parcel?", "It is on its way."),
    ("I want my money back.", "The refund is booked."),
    ("Cancel the order.", "The order is cancelled."),
    ("My password is lost and I cannot sign in any more.", "A new link was sent."),
]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), [text for pair in PAIRS for text in pair])


def task_of(**keys: Any) -> Any:
    return catalog.build("tasks", {"name": "text_generation", "max_new_tokens": 24, **keys})


def rows_of(task: Any, pairs: list[tuple[str, str]] = PAIRS) -> list[dict[str, Any]]:
    columns = {"prompt": "question", "completion": "answer"}
    return [{"row_id": f"r{i}", "place": f"talk.csv:{i + 2}", **task.parse({"question": a, "answer": b}, columns)} for i, (a, b) in enumerate(pairs)]


def specialist_of(folder: Path, method: str, max_length: int = 96, **keys: Any) -> Specialist:
    task, plug, base = task_of(**keys), catalog.build("methods", method), resolve_base(str(folder))
    signature = task.signature(rows_of(task))
    return Specialist(task, signature, plug.prepare(task.build(base, signature), 3), base.tokenizer(), base, max_length, "speaker", method=plug)


def learn(specialist: Specialist, rows: list[dict[str, Any]], steps: int, rate: float) -> list[float]:
    import torch

    objective = catalog.build("objectives", "sft")
    batch = objective.collate(specialist, objective.examples(specialist, rows, specialist.max_length))
    optimizer = torch.optim.AdamW([p for p in specialist.model.parameters() if p.requires_grad], lr=rate)
    torch.manual_seed(0)
    losses = []
    specialist.model.train()
    for _ in range(steps):
        total, count = objective.loss(specialist.model, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    return losses


WANTED = {"prompt": [{"role": "user", "content": "q"}], "completion": "a"}


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, {"prompt": "messages"}),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, {"prompt": "conversations"}),
        ({"prompt": "q", "completion": "a"}, {"prompt": "prompt", "completion": "completion"}),
        ({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}, {"prompt": "prompt", "completion": "completion"}),
        ({"instruction": "q", "input": "", "output": "a"}, {"prompt": "instruction", "completion": "output"}),
        ({"Frage": "q", "Antwort": "a"}, {"prompt": "Frage", "completion": "Antwort"}),
    ],
    ids=["messages", "sharegpt", "prompt/completion", "conversational prompt/completion", "alpaca", "columns of one's own"],
)
def test_row_shapes(values: dict[str, Any], columns: dict[str, str]) -> None:
    assert task_of().parse(values, columns) == WANTED


def test_alpaca_with_everything() -> None:
    values = {"instruction": "Shorten.", "input": "A long text.", "output": "Text.", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    row = task_of().parse(values, {"prompt": "instruction", "completion": "output"})
    assert [(m["role"], m["content"]) for m in row["prompt"]] == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Shorten.\nA long text.")]


def test_turns_that_are_not_learned_from_are_never_the_answer() -> None:
    talk = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "first", "train": False},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "third", "loss": False},
    ]
    row = task_of().parse({"messages": talk}, {"prompt": "messages"})
    assert row["completion"] == "second"
    assert row["prompt"][1]["train"] is False
    with pytest.raises(DataError, match="no assistant turn to learn from"):
        task_of().parse({"messages": talk[:2]}, {"prompt": "messages"})


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_a_row_without_its_answer_is_set_aside(empty: Any) -> None:
    with pytest.raises(DataError, match="answer: there is no answer"):
        task_of().parse({"question": "q", "answer": empty}, {"prompt": "question", "completion": "answer"})


def test_rows_without_an_answer_are_counted_and_placed() -> None:
    task = task_of()
    rows = rows_of(task)
    rows[2]["completion"] = None
    with pytest.raises(DataError, match=r"talk\.csv:4.*1 of 4 rows have no answer"):
        task.signature(rows)


@pytest.mark.parametrize(("method", "rate", "steps"), [("full", 3e-3, 80), ("lora", 5e-3, 120)])
def test_learns_to_answer_and_to_stop_and_a_bundle_answers_the_same(base_folder: Path, tmp_path: Path, method: str, rate: float, steps: int) -> None:
    specialist = specialist_of(base_folder, method)
    rows = rows_of(specialist.task)
    assert all(p.output != row["completion"] for p, row in zip(specialist.predict(rows), rows, strict=True)), "the untouched model must not know the answers"
    losses = learn(specialist, rows, steps, rate)
    assert losses[-1] < losses[0]
    answers = specialist.predict(rows)
    assert [p.output for p in answers] == [row["completion"] for row in rows]
    assert all(p.extra["stopped"] and 0 < (p.confidence or 0) <= 1 for p in answers)
    for row, together in zip(rows, answers, strict=True):
        (alone,) = specialist.predict([row])
        assert alone.output == together.output
        assert alone.confidence == pytest.approx(together.confidence, abs=1e-4)
    specialist.signature = specialist.task.settle(specialist, rows)
    with commit.committed_folder(tmp_path / "bundle") as folder:
        write_bundle(specialist, folder)
    again = open_bundle(tmp_path / "bundle")
    assert [p.output for p in again.predict(rows)] == [p.output for p in answers]
    assert again.signature["chat_template"] == again.tokenizer.chat_template
    assert again.embed(["a", "b c"]).shape == (2, 64)


def test_the_loss_is_that_of_the_answers_tokens(base_folder: Path) -> None:
    """Against the log-probabilities of the tokens one by one; and with the question when asked for."""
    import torch

    specialist = specialist_of(base_folder, "full")
    specialist.model.eval()
    rows = rows_of(specialist.task)
    for on_prompt in (False, True):
        objective = catalog.build("objectives", {"name": "sft", "train_on_prompt": on_prompt})
        examples = objective.examples(specialist, rows, 96)
        with torch.no_grad():
            total, count = objective.loss(specialist.model, objective.collate(specialist, examples))
            by_hand, tokens = 0.0, 0
            for e in examples:
                logs = specialist.model.body(input_ids=torch.tensor([e["ids"]])).logits[0].log_softmax(-1)
                for place, target in enumerate(e["targets"]):
                    if target != -100:
                        by_hand -= float(logs[place - 1, target])
                        tokens += 1
        assert count == tokens
        assert float(total) == pytest.approx(by_hand, rel=1e-4)
        assert on_prompt == (tokens == sum(len(e["ids"]) - 1 for e in examples))


def test_long_rows_lose_the_oldest_turns_and_never_the_answer(base_folder: Path) -> None:
    specialist = specialist_of(base_folder, "full", max_length=20)
    objective = catalog.build("objectives", "sft")
    examples = objective.examples(specialist, rows_of(specialist.task), 20)
    assert any(e["cut"] for e in examples)
    for example, (_, answer) in zip(examples, PAIRS, strict=True):
        assert len(example["ids"]) <= 20
        assert example["ids"][0] == specialist.tokenizer.bos_token_id
        learned = [t for t in example["targets"] if t != -100]
        assert specialist.tokenizer.decode(learned, skip_special_tokens=True).strip() == answer
        assert learned[-1] == specialist.tokenizer.eos_token_id


def test_rows_whose_answer_does_not_fit_are_set_aside_or_refused_with_their_places(base_folder: Path) -> None:
    specialist = specialist_of(base_folder, "full")
    long = [("Short?", "word " * (40 + i)) for i in range(len(PAIRS) + 1)]
    examples, receipts = encoded(catalog.build("objectives", "sft"), specialist, rows_of(specialist.task, [*PAIRS, long[0]]), 30)
    assert len(examples) == len(PAIRS)
    assert [(one.row["place"], one.check) for one in receipts if one.action == ASIDE] == [("talk.csv:6", "train.long_rows")]
    with pytest.raises(DataError, match=r"talk\.csv:6, .*: 5 of 9 rows have an answer .*max_length = 30"):
        catalog.build("objectives", "sft").examples(specialist, rows_of(specialist.task, [*PAIRS, *long]), 30)


def test_a_length_that_the_base_does_not_have_is_not_advised(base_folder: Path) -> None:
    specialist = specialist_of(base_folder, "full", max_length=1000)
    with pytest.raises(DataError) as told:
        catalog.build("objectives", "sft").examples(specialist, rows_of(specialist.task, [("Long?", "word " * 400)]), 30)
    assert told.value.fix == "the base reads 256 tokens: shorten or remove these rows"


def test_general_rows_that_do_not_fit_are_left_out_and_texts_come_in_blocks(base_folder: Path) -> None:
    specialist = specialist_of(base_folder, "full")
    rows = [row | {GENERAL: True} for row in rows_of(specialist.task, [*PAIRS, ("Short?", "word " * 40)])]
    text = {"row_id": "text", "place": "general.jsonl:1", "prompt": [], "completion": " ".join(f"{number} parcels are on their way" for number in range(20)), GENERAL: True}
    examples = catalog.build("objectives", "sft").examples(specialist, [*rows, text], 30)
    blocks = [one for one in examples if one["row_id"] == "text"]
    assert [one["row_id"] for one in examples[: len(PAIRS)]] == [row["row_id"] for row in rows[:-1]]
    assert len(examples) == len(PAIRS) + len(blocks)
    assert max(one["size"] for one in blocks) == 30
    learned = [token for one in blocks for token in one["targets"] if token != -100]
    assert learned[-1] == specialist.tokenizer.eos_token_id
    assert specialist.tokenizer.decode(learned, skip_special_tokens=True).split() == text["completion"].split()


def test_a_context_that_leaves_no_room_for_the_question_is_refused(base_folder: Path) -> None:
    specialist = specialist_of(base_folder, "full", max_new_tokens=256)
    with pytest.raises(PlugError, match="leaves none for the question"):
        specialist.predict(rows_of(specialist.task))


def test_requests() -> None:
    task = task_of()
    assert task.request({"prompt": "q"}) == {"prompt": WANTED["prompt"]}
    assert task.request({"messages": [{"role": "user", "content": "q"}]}) == {"prompt": WANTED["prompt"]}
    for bad in ({}, {"prompt": 3}, {"prompt": " "}):
        with pytest.raises(DataError):
            task.request(bad)


@pytest.mark.parametrize(("method", "rate", "stops"), [("full", 1e-3, True), ("lora", 3e-3, False)])
def test_real_weights_learn_too(shared: Path, method: str, rate: float, stops: bool) -> None:
    """This base was trained without its end token, and LoRA does not move the output layer: it learns the words but cannot learn to stop."""
    folder = shared / "weights" / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip("needs the weights of stories260K in the shared folder")
    specialist = specialist_of(folder, method)
    rows = rows_of(specialist.task)
    losses = learn(specialist, rows, 80, rate)
    assert losses[-1] < 0.2 * losses[0]
    for answer, row in zip(specialist.predict(rows), rows, strict=True):
        assert answer.output.startswith(row["completion"])
        assert answer.extra["stopped"] == stops
