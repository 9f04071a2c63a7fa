"""Calls of functions in answers: the form is the template's, pieces of any size say the same, and what has not that form stays text."""

from __future__ import annotations

from typing import Any

import pytest

from attune.core import catalog
from attune.core.models import resolve_base
from attune.core.randomness import generator
from attune.core.specialist import Specialist
from attune.core.tool_calls import CallForm, CallReader, calls_in, form_of
from attune.testing.models import CHAT_TEMPLATE, tiny_llama

TAGS = CHAT_TEMPLATE.replace(
    "{{ m['content'] }}", "{{ m['content'] }}{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}{% if tools and false %}{{ tools }}{% endif %}"
)
BARE = CHAT_TEMPLATE.replace(
    "{{ m['content'] }}",
    '{% if m.tool_calls %}{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m[\'content\'] }}{% endif %}',
)
LISTED = CHAT_TEMPLATE.replace(
    "{{ m['content'] }}",
    "{{ m['content'] }}{% if m.tool_calls %}[CALLS] [{% for c in m.tool_calls %}{{ {'name': c.function.name, 'arguments': c.function.arguments | tojson, 'id': 'x'} | tojson }}{{ ', ' if not loop.last }}{% endfor %}]{% endif %}",
)
NO_JSON = CHAT_TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] }}{% for c in m.tool_calls or [] %}call {{ c.function.name }}{% endfor %}")
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "wait")]


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Specialist:
    base = resolve_base(str(tiny_llama(tmp_path_factory.mktemp("llama"), ["a word"], chat_template=CHAT_TEMPLATE)))
    return Specialist(catalog.build("tasks", "text_generation"), {}, None, base.tokenizer(), base, 64)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (CHAT_TEMPLATE, CallForm("<tool_call>", "</tool_call>", "name", "arguments", False)),
        (TAGS, CallForm("<tool_call>", "</tool_call>", "name", "arguments", False)),
        (BARE, CallForm("", "", "name", "parameters", False)),
        (LISTED, CallForm("[CALLS]", "", "name", "arguments", True)),
        (NO_JSON, None),
    ],
    ids=["written into the turn", "tags", "bare", "list", "no JSON"],
)
def test_the_form_is_what_the_template_writes(specialist: Specialist, template: str, form: CallForm | None) -> None:
    specialist.tokenizer.chat_template = template
    assert form_of(specialist) == form


FORM = CallForm("<tool_call>", "</tool_call>", "name", "arguments", False)
ONE = '<tool_call>\n{"name": "look", "arguments": {"at": "<b> {x}"}}\n</tool_call>'
LOOK = {"name": "look", "arguments": {"at": "<b> {x}"}}
CASES: list[tuple[CallForm, str, tuple[str, list[dict[str, Any]]]]] = [
    (FORM, ONE, ("", [LOOK])),
    (FORM, f"Let me see.\n\n{ONE}\n{ONE} ", ("Let me see.", [LOOK, LOOK])),
    (FORM, f"{ONE} and so on", (f"{ONE} and so on", [])),
    (FORM, ONE[:-4], (ONE[:-4], [])),
    (FORM, ONE.replace("look", "erase"), (ONE.replace("look", "erase"), [])),
    (FORM, "a < b, <tool but no call", ("a < b, <tool but no call", [])),
    (FORM, "", ("", [])),
    (CallForm("", "", "name", "parameters", False), ' {"name": "wait", "parameters": {}}', ("", [{"name": "wait", "arguments": {}}])),
    (CallForm("", "", "name", "parameters", False), '{"name": "wait", "city": "Bern"}', ('{"name": "wait", "city": "Bern"}', [])),
    (CallForm("", "", "name", "parameters", False), 'So: {"name": "wait", "parameters": {}}', ('So: {"name": "wait", "parameters": {}}', [])),
    (
        CallForm("[CALLS]", "", "name", "arguments", True),
        '[CALLS][{"name": "wait", "arguments": "{}", "id": "1"}, {"name": "look", "arguments": {"at": "<b> {x}"}}]',
        ("", [{"name": "wait", "arguments": {}}, LOOK]),
    ),
]


@pytest.mark.parametrize(("form", "text", "wanted"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_pieces_of_any_size_say_the_same(form: CallForm, text: str, wanted: tuple[str, list[dict[str, Any]]]) -> None:
    draw = generator(4, "pieces")
    for most in (1, 2, 5, 1000):
        reader, given, left = CallReader(form, TOOLS), "", text
        while left:
            size = int(draw.integers(1, most + 1))
            given += reader.push(left[:size])
            left = left[size:]
        rest, calls = reader.end()
        assert (given + rest, calls) == wanted
    assert (calls_in(form, text, {"look", "wait"}) or (text, [])) == wanted or form.opening == "", "whole texts too; a bare form is only looked for at the beginning"


def test_text_is_given_out_as_soon_as_it_can_be_no_call() -> None:
    reader = CallReader(FORM, TOOLS)
    assert [reader.push(piece) for piece in ("Let me ", "see. ", "a <", "b and <tool", "_call>", "{}")] == ["Let me", " see.", " a", " <b and", "", ""]
