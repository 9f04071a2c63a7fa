"""Conversations that are too long lose whole turns and steps, in learning and in answering, by every template, or are refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog, conversation
from attune.core.conversation import prompt_ids, render
from attune.core.errors import DataError
from attune.core.likelihood import _blocks
from attune.core.long_rows import encoded
from attune.core.models import resolve_base
from attune.core.receipts import ASIDE
from attune.core.replies import answers_to, heard
from attune.core.rows import GENERAL
from attune.core.specialist import Specialist
from attune.testing.models import CHAT_TEMPLATE, tiny_bert, tiny_llama

RULE = "Answer in one line."
LONG = " ".join(f"parcel {number} was late" for number in range(60))
INSIDE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'assistant') != (loop.index0 % 2 == 1) %}{{ raise_exception('turns must take turns') }}{% endif %}"
    "{% if m['role'] != 'assistant' %}[Q]{% if loop.first and said %}<<{{ said }}>>{% endif %}{{ m['content'] }}[/Q]{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)
"""In the manner of Llama 2: what the system says stands in the first user's turn, and turns must take turns."""
TALK = [
    {"role": "system", "content": RULE},
    *({"role": role, "content": f"{text} {number}"} for number in range(6) for role, text in (("user", "Where is parcel"), ("assistant", "On its way, parcel"))),
    {"role": "user", "content": "Since when?"},
]
QUESTION = [TALK[0], {"role": "user", "content": f"{LONG} Since when?"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
TEMPLATES = {"none": None, "turns": CHAT_TEMPLATE, "inside": INSIDE}


@pytest.fixture(scope="module", params=TEMPLATES)
def speaker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Specialist:
    base = resolve_base(str(tiny_llama(tmp_path_factory.mktemp("base"), [m["content"] for m in (*TALK, *QUESTION)] * 3, chat_template=TEMPLATES[request.param])))
    task: Any = catalog.build("tasks", {"name": "text_generation", "max_new_tokens": 8})
    return Specialist(task, {}, task.build(base, {}), base.tokenizer(), base, 90)


def text_of(specialist: Specialist, ids: list[int]) -> str:
    return str(specialist.tokenizer.decode(ids))


def row_of(prompt: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"row_id": "r", "place": "talk.jsonl:1", "prompt": prompt, "completion": "Since Monday.", **more}


def test_the_oldest_turns_go_and_the_systems_stays(speaker: Specialist) -> None:
    ids, cut = prompt_ids(speaker, TALK)
    assert (cut, len(ids) <= 90) == (True, True)
    kept = [place for place in range(3, len(TALK), 2) if text_of(speaker, ids) == render(speaker, [TALK[0], *TALK[place:]], to_answer=True)]
    assert len(kept) == 1, "the end of the conversation from a user's turn on, as the template writes it behind what the system says"
    (example,) = catalog.build("objectives", "sft").examples(speaker, [row_of(TALK)], 90)
    assert example["cut"]
    assert len(example["ids"]) <= 90
    assert RULE in text_of(speaker, example["ids"])
    learned = text_of(speaker, [one for one in example["targets"] if one != -100])
    assert learned.count("Since Monday.") == 1
    assert learned.count("On its way") == text_of(speaker, example["ids"]).count("On its way") > 0


def test_a_question_that_is_too_long_loses_its_own_beginning(speaker: Specialist) -> None:
    asked, cut = prompt_ids(speaker, QUESTION)
    assert cut
    text = text_of(speaker, asked)
    begin = text.index(RULE) + len(RULE)
    opened = render(speaker, [TALK[0], {"role": "user", "content": "@"}], to_answer=True)
    assert text.startswith(opened[: opened.index("@")].rstrip())
    assert text.rstrip().endswith(opened[opened.index("@") + 1 :].strip())
    assert "Since when?" in text[begin:]
    assert 80 < len(asked) <= 90
    (example,) = catalog.build("objectives", "sft").examples(speaker, [row_of(QUESTION)], 90)
    assert RULE in text_of(speaker, example["ids"])
    assert 80 < len(example["ids"]) <= 90
    ((ids, _),) = _blocks(speaker, row_of(QUESTION))
    assert ids == example["ids"], "graded as it was learned"
    huge = [TALK[0], {"role": "user", "content": LONG * 400}]
    assert RULE in text_of(speaker, prompt_ids(speaker, huge)[0])


def test_answers_to_one_prompt_keep_the_same_of_it(speaker: Specialist) -> None:
    answers = ["No.", "It came on Monday, I believe."]
    one, other = answers_to(speaker, row_of(QUESTION), answers, 90)
    assert one.ids[: one.begin] == other.ids[: other.begin]
    assert RULE in text_of(speaker, one.ids)
    assert one.cut
    assert max(len(one.ids), len(other.ids)) <= 90


def test_functions_that_may_be_called_stay_too(speaker: Specialist) -> None:
    for prompt in (TALK, TALK[1:]):
        ids, cut = prompt_ids(speaker, prompt, 180, TOOLS)
        assert not cut or '"look"' in text_of(speaker, ids)
        (example,) = catalog.build("objectives", "sft").examples(speaker, [row_of(prompt, tools=TOOLS)], 180)
        assert '"look"' in text_of(speaker, example["ids"])


def steps(begin: int, end: int) -> list[dict[str, Any]]:
    return [{"role": role, "content": f"{text} ({number})"} for number in range(begin, end) for role, text in (("assistant", "I look"), ("tool", "parcel was late"))]


def built(objective: str) -> Any:
    return catalog.build("objectives", {"name": objective, **({"rewards": ["exact_match"], "max_new_tokens": 8} if objective == "grpo" else {})})


@pytest.mark.parametrize("system", [True, False])
def test_of_many_steps_the_last_are_kept_whole_behind_the_question(speaker: Specialist, system: bool) -> None:
    speaker = dataclasses.replace(speaker, max_length=180)
    head = [*TALK[:1][: int(system)], {"role": "user", "content": "Where is it, and since when?"}]
    row = row_of([*head, *steps(0, 30)])
    answer = {"role": "assistant", "content": row["completion"]}
    (example,) = built("sft").examples(speaker, [row], 180)
    text = text_of(speaker, example["ids"])
    (first,) = [n for n in range(1, 30) if render(speaker, [*head, *steps(n, 30), answer], to_answer=False).startswith(text)]
    more = render(speaker, [*head, *steps(first - 1, 30), answer], to_answer=False)
    assert len(speaker.tokenizer(more, add_special_tokens=False)["input_ids"]) > 180 >= len(example["ids"])
    learned = text_of(speaker, [one for one in example["targets"] if one != -100])
    assert [n for n in range(30) if f"I look ({n})" in learned] == list(range(first, 30))
    assert ("late" in learned, learned.count("Since Monday.")) == (False, 1)
    ((ids, _),) = _blocks(speaker, row)
    assert ids == example["ids"], "graded as it was learned"
    assert [one.ids for one in answers_to(speaker, row, [row["completion"]], 180)] == [ids]
    asked, cut = prompt_ids(speaker, row["prompt"])
    assert cut
    assert text_of(speaker, asked) in [render(speaker, [*head, *steps(n, 30)], to_answer=True) for n in range(1, first + 1)]


def test_neither_a_functions_answer_nor_the_question_before_it_is_cut(speaker: Specialist) -> None:
    head = [TALK[0], {"role": "user", "content": "Where is it, and since when?"}, {"role": "assistant", "content": "I look."}]
    row = row_of([*TALK[:13], *head[1:], {"role": "tool", "content": LONG}])
    with pytest.raises(DataError, match=r"talk\.jsonl:1: 1 of 1 rows have more that must stay than train\.max_length = 130 tokens hold"):
        built("sft").examples(speaker, [row], 130)
    ids, cut = prompt_ids(speaker, row["prompt"], 130)
    assert (cut, len(ids)) == (True, 130), "an answer is still given, to the end of the question"
    row["prompt"][-1]["content"] = "It was late, and more than that is not known here."
    (example,) = built("sft").examples(speaker, [row], 130)
    text = text_of(speaker, example["ids"])
    assert all(one["content"] in text for one in (*head, row["prompt"][-1]))


def test_a_conversation_of_many_turns_is_written_a_few_times(speaker: Specialist, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = conversation.render
    monkeypatch.setattr(conversation, "render", lambda *args, **more: written.append(1) or write(*args, **more))
    fit = math.log2(400) + 1
    for number, prompt in enumerate(([*QUESTION[:1], TALK[-1], *steps(0, 400)], [TALK[0], *TALK[1:3] * 400, TALK[-1]], [*QUESTION[:1], TALK[-1], *steps(0, 400), TALK[2], QUESTION[1]])):
        written.clear()
        _, cut = prompt_ids(speaker, prompt)
        assert cut
        assert len(written) <= fit + 12, (number, "asked")
        for ask in (lambda row: _blocks(speaker, row), lambda row: built("dpo").examples(speaker, [row | {"rejected": "No."}], 90)):
            written.clear()
            ask(row_of(prompt))
            assert len(written) <= 2 * fit + 24, (number, "learned")


def test_a_question_loses_its_beginning_however_its_words_are_written(speaker: Specialist) -> None:
    for text in ("\n\n " * 300 + "Since when?", "x" * 5000, "- " * 3000 + "Since when?", "Ünïcödé 🙂 " * 300 + "Since when?"):
        prompt = [TALK[0], {"role": "user", "content": text}]
        ids, cut = prompt_ids(speaker, prompt)
        assert RULE in text_of(speaker, ids)
        assert cut == (ids != prompt_ids(speaker, prompt, 10_000)[0])
        assert len(ids) <= 90
        assert len(ids) > 60 or not cut, text[:10]


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto", "grpo"])
def test_rows_of_which_too_much_must_stay_are_refused_with_a_length_that_does(speaker: Specialist, objective: str) -> None:
    more = {"rejected": "No.", "desirable": True}
    short = row_of([TALK[0], TALK[-1]], **more)
    saying = " ".join(LONG.split()[:80])
    long = [
        row_of([{"role": "system", "content": saying}, *TALK[1:3], TALK[-1]], **more) | {"row_id": "one", "place": "talk.jsonl:2"},
        row_of([TALK[0], TALK[-1], {"role": "assistant", "content": "I look."}, {"role": "tool", "content": saying}], **more) | {"row_id": "two", "place": "talk.jsonl:3"},
    ]
    speaker = dataclasses.replace(speaker, max_length=250)
    said = r"talk\.jsonl:2, talk\.jsonl:3: 2 of 3 rows have more that must stay than train\.max_length = 90 tokens hold"
    with pytest.raises(DataError, match=said) as told:
        built(objective).examples(speaker, [short, *long], 90)
    assert ("the answer" in told.value.what) == (objective != "grpo")
    need = int(str(told.value.fix).removeprefix("set train.max_length to ").split()[0])
    assert 90 < need < 250
    assert len(built(objective).examples(speaker, [short, *long], need)) == 3
    examples, (receipt,) = encoded(built(objective), speaker, [short, *long], need - 1)
    assert (len(examples), receipt.action, receipt.tokens) == (2, ASIDE, need)
    assert [one["row_id"] for one in built(objective).examples(speaker, [short, *(one | {GENERAL: True} for one in long)], 90)] == ["r"]
    for one in long:
        ids, cut = prompt_ids(speaker, one["prompt"], 90)
        assert (cut, len(ids)) == (True, 90), "an answer is still given"


def test_a_row_without_anything_that_must_stay_is_cut_as_it_was(speaker: Specialist) -> None:
    whole = [int(one) for one in speaker.tokenizer(render(speaker, QUESTION[1:], to_answer=True), add_special_tokens=False)["input_ids"]]
    ids, cut = prompt_ids(speaker, QUESTION[1:])
    assert cut
    assert ids[1:] == whole[-89:]


def test_an_encoder_that_scores_hears_the_system_too(tmp_path: Path) -> None:
    base = resolve_base(str(tiny_bert(tmp_path / "bert")))
    task: Any = catalog.build("tasks", "reward")
    judge = Specialist(task, {}, task.build(base, {}), base.tokenizer(), base, 40)
    one, other = heard(judge, row_of(QUESTION), ["No.", "It came on Monday."], 40)
    for answer in (one, other):
        assert answer.cut
        assert len(answer.ids) <= 40
        assert RULE.casefold().rstrip(".") in text_of(judge, answer.ids)
    with pytest.raises(DataError, match="what the system says") as told:
        heard(judge, row_of([{"role": "system", "content": LONG}, TALK[-1]]), ["No."], 40)
    need = told.value.need
    assert len(heard(judge, row_of([{"role": "system", "content": LONG}, TALK[-1]]), ["No."], need)[0].ids) == need
