"""Calls of functions in an answer: found by the form in which the model's own chat template writes them, whole or while the answer comes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attune.core.conversation import render, stop_ids
from attune.core.errors import DataError
from attune.core.text_stream import overlap

if TYPE_CHECKING:
    from attune.core.specialist import Specialist

PROBE = {"name": "probe_function", "arguments": {"probe_key": "probe value"}}
TOOL = {"type": "function", "function": {"name": PROBE["name"], "description": "", "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}}}}
BESIDE = {"id", "type"}
"""What some templates write beside name and arguments."""

Call = dict[str, Any]
"""`name` and `arguments` (a mapping), as in `core.conversation.Message`."""


@dataclass(frozen=True)
class CallForm:
    """How a template writes a call: a JSON value between two texts, either of which may be empty."""

    opening: str
    closing: str
    name: str
    """The key of the function's name."""
    arguments: str
    """The key of its arguments."""
    listed: bool
    """Whether calls stand in a list."""


def form_of(specialist: Specialist) -> CallForm | None:
    """What the chat template in force makes of a call; None where it writes none, or none in JSON."""
    asked = [{"role": "user", "content": "question"}]
    try:
        before = render(specialist, asked, to_answer=True, tools=[TOOL])
        whole = render(specialist, [*asked, {"role": "assistant", "content": "", "tool_calls": [PROBE]}], to_answer=False, tools=[TOOL])
    except DataError:
        return None
    if not whole.startswith(before):
        return None
    tokenizer = specialist.tokenizer
    said = whole[len(before) :]
    unheard = {*tokenizer.all_special_tokens, *(str(tokenizer.convert_ids_to_tokens(one)) for one in stop_ids(specialist))}
    unheard |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted(unheard, key=len, reverse=True):  # an answer's text holds none of them
        said = said.replace(token, "")
    for place in (i for i, letter in enumerate(said) if letter in "{["):
        try:
            value, end = json.JSONDecoder().raw_decode(said, place)
        except ValueError:
            continue
        inner = value[0] if isinstance(value, list) and value else value
        if not isinstance(inner, dict):
            continue
        name = next((key for key, one in inner.items() if one == PROBE["name"]), None)
        arguments = next((key for key, one in inner.items() if _mapping(one) == PROBE["arguments"]), None)
        if name is not None and arguments is not None:
            return CallForm(said[:place].strip(), said[end:].strip(), name, arguments, isinstance(value, list))
    return None


def calls_in(form: CallForm, text: str, names: Collection[str]) -> tuple[str, list[Call]] | None:
    """What an answer says before its calls, and the calls.

    None where it has not that form from the first call to its end, or calls what is not among `names`: it is a text then.
    """
    begin = text.find(form.opening)
    if begin < 0:
        return None
    before, rest, calls = text[:begin].rstrip(), text[begin:].strip(), []
    while rest:
        if not rest.startswith(form.opening):
            return None
        rest = rest[len(form.opening) :].lstrip()
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError):
            return None
        rest = rest[end:].lstrip()
        if not rest.startswith(form.closing) or isinstance(value, list) != form.listed:
            return None
        rest = rest[len(form.closing) :].lstrip()
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict) or not {form.name, form.arguments} <= set(one) <= {form.name, form.arguments, *BESIDE}:
                return None
            arguments = _mapping(one[form.arguments])
            if one[form.name] not in names or arguments is None:
                return None
            calls.append({"name": one[form.name], "arguments": arguments})
    return (before, calls) if calls else None


class CallReader:
    """An answer that may call functions, as it comes: what cannot be part of a call is given out at once, a call at the end.

    Args:
        form: how calls are written.
        tools: the functions that may be called.
    """

    def __init__(self, form: CallForm, tools: Sequence[Mapping[str, Any]]) -> None:
        self.form = form
        self.names = {str(one.get("function", one).get("name")) for one in tools}
        self._kept = ""
        self._calling: bool | None = None
        """None: not decided yet."""

    def push(self, text: str) -> str:
        """The text that is settled with these letters."""
        self._kept += text
        if self._calling:
            return ""
        if self.form.opening:
            place = self._kept.find(self.form.opening)
            self._calling = place >= 0
            place = place if self._calling else len(self._kept) - overlap(self._kept, self.form.opening)
            while place and self._kept[place - 1].isspace():  # spaces before a call are no part of what is said
                place -= 1
        else:
            begun = self._kept.lstrip()
            if self._calling is None and begun:
                self._calling = begun[0] == ("[" if self.form.listed else "{")
            place = len(self._kept) if self._calling is False else 0
        given, self._kept = self._kept[:place], self._kept[place:]
        return given

    def end(self) -> tuple[str, list[Call]]:
        """What was kept, as text or as calls."""
        found = calls_in(self.form, self._kept, self.names) if self._calling else None
        rest, self._kept = self._kept, ""
        return found if found is not None else (rest, [])


def _mapping(value: Any) -> dict[str, Any] | None:
    """Arguments as a mapping; some templates write them as JSON in a text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None
