"""Conversations: every shape becomes the same messages; exactly the assistant's tokens are learned, their end token included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.core import catalog
from attune.core.conversation import DEFAULT_TEMPLATE, keep_end, messages_of, prompt_ids, shortened, stop_ids, taught, template_of
from attune.core.errors import DataError, PlugError
from attune.core.models import resolve_base
from attune.core.specialist import Specialist
from attune.testing.models import CHAT_TEMPLATE, tiny_llama

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "On its way."},
    {"role": "user", "content": "Since when?"},
    {"role": "assistant", "content": "Since Monday."},
]
TEXTS = [m["content"] for m in TALK] * 3
REWRITING = CHAT_TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else m['content'] | upper }}")


def speaker(folder: Path, template: str | None) -> Specialist:
    base = resolve_base(str(tiny_llama(folder, TEXTS, chat_template=template)))
    task: Any = catalog.build("tasks", "text_generation")
    return Specialist(task, {}, task.build(base, {}), base.tokenizer(), base, 128)


@pytest.fixture(scope="module", params=[None, CHAT_TEMPLATE], ids=["default template", "template of the base"])
def specialist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Specialist:
    return speaker(tmp_path_factory.mktemp("base"), request.param)


def test_shapes_of_other_tools_become_messages() -> None:
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}, {"from": "observation", "value": "c"}]
    assert messages_of(said) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}, {"role": "tool", "content": "c"}]
    assert messages_of("a") == [{"role": "user", "content": "a"}]
    assert messages_of([{"role": "assistant", "content": "b", "loss": True}])[0]["train"] is True


def test_roles_are_known_however_they_are_written() -> None:
    call = {"from": "Function_Call", "value": '{"name": "add", "arguments": {}}'}
    read = messages_of([{"role": "System", "content": "be short"}, {"role": "User", "content": "hi"}, {"from": "GPT ", "value": "hello"}, call])
    assert [one["role"] for one in read] == ["system", "user", "assistant", "assistant"]
    assert read[3]["tool_calls"] == [{"name": "add", "arguments": {}}]


@pytest.mark.parametrize(
    ("value", "words"),
    [([], "not a conversation"), (7, "not a conversation"), (["x"], "not a message"), ([{"role": "narrator", "content": "x"}], "narrator"), ([{"role": "user", "content": [1]}], "not text")],
)
def test_what_is_no_conversation_is_named(value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        messages_of(value)


def test_a_flag_that_is_no_yes_or_no_is_refused() -> None:
    with pytest.raises(DataError, match=r"'weight' is 0\.5"):
        messages_of([{"role": "assistant", "content": "x", "weight": 0.5}])


def learned_texts(specialist: Specialist, talk: list[dict[str, Any]]) -> list[str]:
    """The runs of learned tokens, as text."""
    one = taught(specialist, talk, stop_ids(specialist))
    runs: list[list[int]] = []
    for i, (token, learned) in enumerate(zip(one.ids, one.learned, strict=True)):
        if learned:
            if i == 0 or not one.learned[i - 1]:
                runs.append([])
            runs[-1].append(token)
    return [specialist.tokenizer.decode(run).strip() for run in runs]


def test_exactly_the_answers_and_their_ends_are_learned(specialist: Specialist) -> None:
    end = "</s>" if template_of(specialist) == DEFAULT_TEMPLATE else "<|end|>"
    assert learned_texts(specialist, TALK) == [f"On its way.{end}", f"Since Monday.{end}"]
    without_first = [{**m, "train": False} if number == 2 else m for number, m in enumerate(TALK)]
    assert learned_texts(specialist, without_first) == [f"Since Monday.{end}"]


def test_what_is_taught_begins_with_what_is_asked_later(specialist: Specialist) -> None:
    asked, cut = prompt_ids(specialist, TALK[:-1])
    assert not cut
    assert taught(specialist, TALK, stop_ids(specialist)).ids[: len(asked)] == asked


def test_an_end_is_added_where_the_template_writes_none(tmp_path: Path) -> None:
    specialist = speaker(tmp_path, CHAT_TEMPLATE.replace("<|end|>", ""))
    one = taught(specialist, TALK[:3], stop_ids(specialist))
    assert one.ids[-1] == specialist.tokenizer.eos_token_id
    assert one.learned[-1]


def test_a_template_that_rewrites_earlier_turns_is_not_learned_from_by_mistake(tmp_path: Path) -> None:
    specialist = speaker(tmp_path, REWRITING)
    with pytest.raises(DataError, match="differently"):
        taught(specialist, TALK, stop_ids(specialist))


def test_a_base_without_an_end_token_is_refused(tmp_path: Path) -> None:
    specialist = speaker(tmp_path, None)
    specialist.tokenizer.eos_token = None
    with pytest.raises(PlugError, match="no end token"):
        template_of(specialist)


def test_a_changed_template_is_noticed(specialist: Specialist) -> None:
    settled = specialist.task.settle(specialist, [])
    good = Specialist(specialist.task, settled, specialist.model, specialist.tokenizer, specialist.base, 128)
    assert template_of(good) == settled["chat_template"]
    good.signature = {**settled, "chat_template": settled["chat_template"] + " "}
    with pytest.raises(PlugError, match="not the one this model was tuned with"):
        template_of(good)


def test_cutting_keeps_the_begin_token_and_the_end() -> None:
    assert keep_end([1, 5, 6, 7, 8], 3, 1) == [1, 7, 8]
    assert keep_end([4, 5, 6, 7, 8], 3, 1) == [6, 7, 8]
    assert keep_end([4, 5], 3, 1) == [4, 5]


def test_a_turn_whose_beginning_was_cut_is_not_learned(specialist: Specialist) -> None:
    one, first = taught(specialist, TALK, stop_ids(specialist)), specialist.tokenizer.bos_token_id
    whole = [i for i in range(len(one.ids)) if one.learned[i]]
    assert len(one.begins) == 2
    for limit in range(one.answer_size + 1, len(one.ids)):
        ids, learned = shortened(one, limit, first)
        assert ids == keep_end(one.ids, limit, first)
        gone = len(one.ids) - len(ids)
        kept = [begin for begin in one.begins if begin >= gone + (ids[0] == first)]
        assert [i + gone for i, told in enumerate(learned) if told] == [i for i in whole if i >= min(kept)]
    assert shortened(one, len(one.ids), first) == (one.ids, one.learned)


def test_a_turn_that_begins_before_what_is_encoded_is_not_learned(specialist: Specialist) -> None:
    long = [TALK[0], {"role": "user", "content": "Hello."}, {"role": "assistant", "content": "On its way. " * 2000}, *TALK[-2:]]
    one = taught(specialist, long, stop_ids(specialist))
    assert one.cut
    assert specialist.tokenizer.decode([token for token, learned in zip(one.ids, one.learned, strict=True) if learned], skip_special_tokens=True).strip() == "Since Monday."
