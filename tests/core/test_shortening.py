"""Conversations that are too long keep what the system says, in learning and in answering, by every template, or are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.conversation import prompt_ids, render
from attune.core.errors import DataError
from attune.core.likelihood import _blocks
from attune.core.models import resolve_base
from attune.core.replies import answers_to, heard
from attune.core.specialist import Specialist
from attune.testing.models import CHAT_TEMPLATE, tiny_bert, tiny_llama

RULE = "Answer in one line."
LONG = " ".join(f"parcel {number} was late" for number in range(60))
INSIDE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% set rest = messages[1:] %}{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must take turns') }}{% endif %}"
    "{% if m['role'] == 'user' %}[Q]{% if loop.first and said %}<<{{ said }}>>{% endif %}{{ m['content'] }}[/Q]{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
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


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto", "grpo"])
def test_a_row_that_could_only_be_learned_without_the_systems_turn_is_left_out(speaker: Specialist, objective: str) -> None:
    built = catalog.build("objectives", {"name": objective, **({"rewards": ["exact_match"], "max_new_tokens": 8} if objective == "grpo" else {})})
    more = {"rejected": "No.", "desirable": True}
    short = row_of([TALK[0], TALK[-1]], **more)
    long = row_of([{"role": "system", "content": LONG}, TALK[-1]], **more) | {"row_id": "long", "place": "talk.jsonl:2"}
    assert [one["row_id"] for one in built.examples(speaker, [short, long], 90)] == ["r"]
    with pytest.raises(DataError, match=r"talk\.jsonl:2: 1 of 1 rows are too long: what the system says") as told:
        built.examples(speaker, [long], 90)
    assert str(told.value.fix).endswith("shorten or remove these rows")
    ids, cut = prompt_ids(speaker, long["prompt"], 90)
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
    with pytest.raises(DataError, match="what the system says"):
        heard(judge, row_of([{"role": "system", "content": LONG}, TALK[-1]]), ["No."], 40)
