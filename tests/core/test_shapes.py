"""Shapes of rows: each becomes the same prompt and answer; what fits none is refused with column, reason and way out; fuzzed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.core import shapes
from attune.core.errors import DataError
from attune.core.shapes import answered_of, document_of, labelled_of, preference_of, rewarded_of, shape_of

Q = [{"role": "user", "content": "q"}]
QA = [*Q, {"role": "assistant", "content": "a"}]
QB = [*Q, {"role": "assistant", "content": "b"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}

ANSWERED = {
    "alpaca": ({"instruction": "q", "input": "", "output": "a"}, {"prompt": Q, "completion": "a"}),
    "sharegpt": ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, {"prompt": Q, "completion": "a"}),
    "messages": ({"messages": QA}, {"prompt": Q, "completion": "a"}),
    "messages as text in a table": ({"messages": json.dumps(QA)}, {"prompt": Q, "completion": "a"}),
    "messages as pandas writes them": ({"messages": str(QA)}, {"prompt": Q, "completion": "a"}),
    "content in parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, QA[1]]}, {"prompt": Q, "completion": "a"}),
    "prompt and completion": ({"prompt": "q", "completion": "a"}, {"prompt": Q, "completion": "a"}),
    "conversational prompt and completion": ({"prompt": Q, "completion": QA[1:]}, {"prompt": Q, "completion": "a"}),
    "segments": (
        {"segments": [{"label": False, "text": "<s>Q"}, {"label": True, "text": "A</s>"}]},
        {"prompt": [{"role": "segment", "content": "<s>Q", "train": False}], "completion": "A</s>"},
    ),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_every_shape_is_read_whatever_columns_the_file_has(name: str) -> None:
    values, wanted = ANSWERED[name]
    for columns in ({}, {"prompt": "messages"}, {"prompt": "instruction", "completion": "output"}, {"prompt": "prompt", "completion": "completion"}):
        assert answered_of(values, columns) == wanted


def test_names_of_shapes() -> None:
    assert [shape_of(values) for values, _ in ANSWERED.values()] == ["alpaca", "sharegpt", "messages", "messages", "messages", "messages", "prompt and completion", "prompt and completion", "segments"]
    assert shape_of({"prompt": "q", "completion": "a", "label": True}) == "labelled answers (KTO)"
    assert shape_of({"messages": QA, "tools": [TOOL]}) == "messages with tools"
    assert shape_of({"Frage": "q"}) == "columns"
    assert shape_of({"text": "x", "messages": None}) == "raw text"


def test_alpaca_with_everything() -> None:
    values = {"instruction": "Shorten.", "input": "A long text.", "output": "Text.", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    row = answered_of(values, {"prompt": "instruction", "completion": "output"})
    assert [(m["role"], m["content"]) for m in row["prompt"]] == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Shorten.\nA long text.")]


ABOUT = [
    ({"instruction": "q", "context": "the facts", "output": "a"}, "q\nthe facts"),
    ({"Instruction": "q", "Context": "the facts", "output": "a"}, "q\nthe facts"),
    ({"instruction": "q", "input": "this", "context": "the facts", "output": "a"}, "q\nthis\nthe facts"),
    ({"prompt": "q", "input": "this", "output": "a"}, "q\nthis"),
    ({"question": "q", "context": "the facts", "output": "a"}, "q\nthe facts"),
    ({"prompt": "the facts: q", "context": "the facts", "output": "a"}, "the facts: q"),
    ({"question": "q", "context": ["the facts", "", "and others"], "output": "a"}, "q\nthe facts\nand others"),
    ({"question": "q", "context": ["the facts", {"title": "t"}], "output": "a"}, "q"),
    ({"question": "q", "context": [], "output": "a"}, "q"),
    ({"question": "q", "context": " ", "output": "a"}, "q"),
    ({"prompt": Q, "context": "the facts", "output": "a"}, "q"),
]


@pytest.mark.parametrize(("values", "asked"), ABOUT)
def test_what_is_asked_about_is_read_beside_the_question(values: dict[str, Any], asked: str) -> None:
    columns = {"prompt": next(iter(values)), "completion": "output"}
    for row in (answered_of(values, columns), rewarded_of(values, columns)):
        assert [m["content"] for m in row["prompt"]] == [asked]


def test_of_answers_in_a_list_the_first_is_read() -> None:
    columns = {"prompt": "question", "completion": "answers"}
    assert answered_of({"question": "q", "answers": {"text": ["a", "b"], "answer_start": [3, 9]}}, columns) == {"prompt": Q, "completion": "a"}
    with pytest.raises(DataError, match="the list of right answers is empty") as told:
        answered_of({"question": "q", "answers": {"text": [], "answer_start": []}}, columns)
    assert told.value.place == "answers"
    assert "leave the row out" in str(told.value.fix)


def test_an_answer_is_never_read_as_what_is_asked_about() -> None:
    for reader in (answered_of, rewarded_of):
        assert reader({"question": "q", "context": "a"}, {"prompt": "question", "completion": "context"}) == {"prompt": Q, "completion": "a"}


@pytest.mark.parametrize("written", ['[["Hi", "Hello"]]', "[['Hi', 'Hello']]", [["Hi", "Hello"]]])
def test_the_history_of_a_table_is_read(written: Any) -> None:
    columns = {"prompt": "instruction", "completion": "output"}
    assert [m["content"] for m in answered_of({"instruction": "q", "output": "a", "history": written}, columns)["prompt"]] == ["Hi", "Hello", "q"]
    assert answered_of({"instruction": "q", "output": "a", "history": "[]"}, columns) == {"prompt": Q, "completion": "a"}


@pytest.mark.parametrize(
    "values",
    [
        {
            "messages": [
                *Q,
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
                {"role": "tool", "content": "sunny"},
                {"role": "assistant", "content": "Sun."},
            ],
            "tools": [TOOL],
        },
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
                {"from": "observation", "value": "sunny"},
                {"from": "gpt", "value": "Sun."},
            ],
            "tools": json.dumps([TOOL]),
        },
    ],
    ids=["OpenAI", "ShareGPT"],
)
def test_functions_are_read_in_both_forms(values: dict[str, Any]) -> None:
    row = answered_of(values, {})
    assert row == {"prompt": [*Q, CALLED, {"role": "tool", "content": "sunny"}], "completion": "Sun.", "tools": [TOOL]}
    name = next(iter(values))
    assert answered_of({**values, name: values[name][:2]}, {})["completion"] == CALL, "an answer that is a call becomes text"


def test_flags_of_turns_choose_what_is_learned() -> None:
    talk = [*Q, {"role": "assistant", "content": "first", "loss": False}, {"role": "user", "content": "2"}, {"role": "assistant", "content": "second", "weight": 1}]
    row = answered_of({"messages": [*talk, {"role": "user", "content": "3"}, {"role": "assistant", "content": "third", "train": False}]}, {})
    assert row["completion"] == "second"
    assert row["prompt"][1]["train"] is False


def test_a_file_that_mixes_shapes_is_read_row_by_row() -> None:
    columns = {"prompt": "messages", "completion": "output"}
    rows = [{"messages": QA, "instruction": None, "output": None}, {"messages": None, "instruction": "q", "output": "a"}, {"messages": None, "prompt": "q", "completion": "a"}]
    assert [answered_of(one, columns) for one in rows] == [{"prompt": Q, "completion": "a"}] * 3


PREFERENCES = [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"prompt": Q, "chosen": QA[1:], "rejected": QB[1:]},
    {"chosen": QA, "rejected": QB},
    {"prompt": "q", "chosen": QA, "rejected": QB},
    {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
    {"messages": QA, "rejected_response": "b"},
    {"messages": QA, "rejected_messages": QB},
    {"input": {"messages": Q}, "preferred_output": QA[1:], "non_preferred_output": QB[1:]},
]


@pytest.mark.parametrize("values", PREFERENCES, ids=lambda values: "-".join(values))
def test_preferences(values: dict[str, Any]) -> None:
    assert preference_of(values, {}) == {"prompt": Q, "completion": "a", "rejected": "b"}
    detected = {"prompt": next((n for n in ("messages", "prompt", "instruction", "input") if n in values), None), "rejected": next(n for n in values if "reject" in n or n.startswith("non_"))}
    assert preference_of(values, {k: v for k, v in detected.items() if v}) == {"prompt": Q, "completion": "a", "rejected": "b"}


LABELLED = [
    ({"prompt": "q", "completion": "a", "label": True}, True),
    ({"prompt": "q", "completion": "a", "label": "false"}, False),
    ({"messages": QA, "label": 0}, False),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": True}, True),
    ({"instruction": "q", "output": "a", "kto_tag": False}, False),
]


@pytest.mark.parametrize(("values", "wanted"), LABELLED)
def test_labelled_answers(values: dict[str, Any], wanted: bool) -> None:
    assert labelled_of(values, {}) == {"prompt": Q, "completion": "a", "desirable": wanted}


def test_prompts_for_rewards() -> None:
    row = rewarded_of({"prompt": "q", "solution": 42, "difficulty": 3, "empty": None}, {"prompt": "prompt", "completion": "solution"})
    assert row == {"prompt": Q, "completion": "42"}
    assert rewarded_of({"prompt": Q}, {})["completion"] is None
    assert rewarded_of({"messages": QA}, {}) == {"prompt": Q, "completion": "a"}


def test_raw_text_is_kept_whole() -> None:
    text = "word " * 100_000
    assert document_of({"text": text, "title": "t"}, {"completion": "text"}) == {"prompt": [], "completion": text}


WRONG = [
    (answered_of, {"messages": [*Q, *Q, QA[1]]}, "turns 1 and 2 are both the user's"),
    (answered_of, {"messages": [*Q, {"role": "system", "content": "s"}, QA[1]]}, "behind the user's"),
    (answered_of, {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}, QA[1]]}, "no turn of the assistant is before it"),
    (answered_of, {"messages": [*Q, {"role": "assistant", "content": " "}]}, "turn 2, the assistant's, is empty"),
    (answered_of, {"messages": Q}, "no assistant turn"),
    (answered_of, {"messages": [*Q, {"role": "assistant", "content": "a", "train": False}]}, "no assistant turn"),
    (answered_of, {"messages": [*Q, {"role": "narrator", "content": "a"}]}, "narrator"),
    (answered_of, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, QA[1]]}, "part of type image_url"),
    (answered_of, {"messages": QA, "images": ["a.jpg"]}, "reads text only"),
    (answered_of, {"messages": str(QA).replace("}, {", "}\n {")}, "no JSON"),
    (answered_of, {"instruction": "q", "output": "a", "history": "Hi there"}, "no pair|not a pair"),
    (answered_of, {"prompt": "q", "completion": "  "}, None),
    (answered_of, {"prompt": "q", "completion": "a", "label": False}, "marked as a bad one"),
    (answered_of, {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "weather(Rome)"}]}, "no JSON"),
    (answered_of, {"segments": [{"label": False, "text": "x"}]}, "no segment is learned"),
    (answered_of, {"messages": QA, "tools": "not json"}, "no JSON"),
    (preference_of, {"prompt": "q", "chosen": "a", "rejected": " a "}, "are equal"),
    (preference_of, {"prompt": "q", "chosen": "", "rejected": "b"}, "no answer that was chosen"),
    (preference_of, {"prompt": "q", "chosen": "a", "rejected": ""}, "no answer that was rejected"),
    (preference_of, {"prompt": "q", "chosen": "a"}, "no answer that was rejected"),
    (preference_of, {"chosen": QA, "rejected": [{"role": "user", "content": "other"}, QB[1]]}, "do not answer the same question"),
    (preference_of, {"chosen": "a", "rejected": "b"}, "no question"),
    (labelled_of, {"prompt": "q", "completion": "a", "label": "maybe"}, "does not say whether"),
    (labelled_of, {"prompt": "q", "completion": "a"}, "does not say whether"),
    (document_of, {"text": "  "}, "there is no text"),
    (document_of, {"text": QA}, "is not a text"),
]


@pytest.mark.parametrize(("reader", "values", "words"), WRONG, ids=range(len(WRONG)))
def test_bad_rows_get_the_place_the_reason_and_the_way_out(reader: Any, values: dict[str, Any], words: str | None) -> None:
    columns = {"prompt": "prompt", "completion": "completion"} if "completion" in values else {}
    with pytest.raises(DataError, match=words or "no answer") as caught:
        reader(values, columns)
    assert caught.value.place
    assert caught.value.fix


NAMES = sorted(
    {hint for roles in (shapes.PREFERENCE_ROLES, shapes.LABELLED_ROLES, shapes.DOCUMENT_ROLES) for role in roles for hint in role.hints} | {"segments", "system", "history", "images", "kto_tag"}
)
KEYS = ["role", "from", "content", "value", "train", "loss", "weight", "tool_calls", "function_call", "name", "arguments", "function", "text", "label", "type", "messages", "image"]
WORDS = st.sampled_from(["user", "assistant", "human", "gpt", "system", "tool", "function_call", "observation", "", "q", "[{", '[{"role": "user", "content": "x"}]', "true", "{}", "\ud800", "segment"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), WORDS, st.text(max_size=5))
ANYTHING = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)), max_leaves=12)
TURN = st.fixed_dictionaries({"role": WORDS}, optional={"content": ANYTHING, "train": SCALARS, "tool_calls": ANYTHING, "value": SCALARS})
CELLS = st.one_of(ANYTHING, st.lists(TURN, max_size=5))
ROWS = st.dictionaries(st.sampled_from(NAMES), CELLS, max_size=6)
COLUMNS = st.dictionaries(st.sampled_from(["prompt", "completion", "rejected", "desirable"]), st.sampled_from(NAMES), max_size=4)
ROLES = {answered_of: shapes.ANSWERED_ROLES, preference_of: shapes.PREFERENCE_ROLES, labelled_of: shapes.LABELLED_ROLES, rewarded_of: shapes.ANSWERED_ROLES, document_of: shapes.DOCUMENT_ROLES}


def read(reader: Any, values: dict[str, Any], columns: dict[str, str]) -> tuple[dict[str, Any], DataError | None]:
    try:
        return reader(values, columns), None
    except DataError as error:
        return {}, error


@pytest.mark.parametrize("reader", ROLES, ids=lambda reader: reader.__name__)
@settings(max_examples=120, deadline=None)
@given(values=ROWS, columns=COLUMNS)
def test_any_row_parses_or_is_refused_with_everything_a_person_needs(reader: Any, values: dict[str, Any], columns: dict[str, str]) -> None:
    assert shape_of(values)
    row, refused = read(reader, values, columns)
    if refused is not None:
        assert refused.what
        assert refused.place
        assert refused.fix
        return
    assert set(row) <= {role.name for role in ROLES[reader]}
    if row["prompt"] is None:
        return
    if row["prompt"]:
        assert all(set(m) <= {"role", "content", "train", "tool_calls", "name", "tool_call_id"} and isinstance(m["content"], str) for m in row["prompt"])
    if reader is not rewarded_of:
        assert row["completion"] is None or (isinstance(row["completion"], str) and row["completion"].strip())
    if reader is preference_of:
        assert row["rejected"].strip() != row["completion"].strip()
