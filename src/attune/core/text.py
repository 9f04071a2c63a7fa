"""Small helpers on text that several rooms share: what counts as the same text, what can be shown of it, and the texts inside a row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

_SPACES = re.compile(r"\s+")
AT_MOST = 50_000
"""Characters of a text that are compared with other texts or counted; a cell of megabytes would cost minutes and say nothing more."""
TOKEN_CHARACTERS = 20
"""Characters that hold at least one token in any language; a word is rarely more than a few tokens, a token rarely more than a word."""
WIDER = 10
"""How much more is read where so many characters held too few tokens: rows of dashes, base64, unknown words of a hundred letters."""
_EDGE = 200
_EDGES = " \t\r\n.,;!?…\"'“”‘’"
_UNTOUCHED = ("role", "from", "name", "type", "id")
"""Keys of a chat message that say who speaks, not what is said."""


def normalise(text: str) -> str:
    """The form in which two texts count as the same: NFKC, one case, single spaces, no sentence punctuation at the edges.

    Punctuation inside and brackets stay, so ':)' and ':(' or '2+3' and '2-3' differ.
    """
    folded = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    spaced = " ".join(folded.split())
    return spaced.strip(_EDGES) or spaced


def portion(text: str, tokens: int, *, end: bool = False, wider: bool = False) -> str:
    """The part of a text that a tokenizer needs to see for its first `tokens` tokens (or its last, with `end`): `TOKEN_CHARACTERS` characters each.

    The cut falls on white space where there is some near it, so that no word is halved, and never between a letter and its accent. The caller
    asks again with `wider` when the part held too few tokens, and says that the text was cut.
    """
    size = tokens * TOKEN_CHARACTERS * (WIDER if wider else 1)
    if len(text) <= size:
        return text
    if end:
        begin = len(text) - size
        begin = next((place for place in range(begin, min(begin + _EDGE, len(text))) if text[place - 1].isspace()), begin)
        while begin < len(text) - 1 and unicodedata.combining(text[begin]):
            begin += 1
        return text[begin:]
    edge = next((place for place in range(size, max(size - _EDGE, 0), -1) if text[place].isspace()), size)
    while edge > 1 and unicodedata.combining(text[edge]):
        edge -= 1
    return text[:edge]


def readable(value: Any) -> str:
    """A role's value for people: texts as they are, turns as `user: ...` with the functions that they call, functions by name, lists with commas."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {'(missing)' if inner is None else inner}" for name, inner in value.items())
    if isinstance(value, list):
        turns = any(isinstance(one, dict) and "role" in one for one in value)
        return (" / " if turns else ", ").join(_part(one) for one in value)
    return "" if value is None else str(value)


def _part(one: Any) -> str:
    if not isinstance(one, dict):
        return str(one)
    if "role" in one:
        calls = ", ".join(_part(call) for call in one.get("tool_calls", ()))
        return f"{one['role']}: " + " ".join(part for part in (str(one.get("content") or ""), f"(calls {calls})" if calls else "") if part)
    body = one.get("function", one)
    return str(body["name"]) if isinstance(body, dict) and "name" in body else readable(one)


def excerpt(value: Any, length: int = 120) -> str:
    """A value on one line, at most `length` characters."""
    text = _SPACES.sub(" ", value if isinstance(value, str) else repr(value)).strip()
    return text if len(text) <= length else text[: length - 1] + "…"


class Written(float):
    """A number that remembers how a file wrote it: 1.50 stays 1.50 where it is an answer."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Written:
        """The number that `text` says."""
        found = super().__new__(cls, text)
        found.text = text
        return found


def as_written(value: Any) -> str:
    """A value as text; a number as its file wrote it, where that is known."""
    return value.text if isinstance(value, Written) else str(value)


def texts_in(value: Any) -> Iterator[str]:
    """Every text a role value holds: itself, or the contents of chat messages; who speaks is left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _UNTOUCHED:
                yield from texts_in(inner)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text of `texts_in` changed; the same object when nothing changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        items = [map_texts(inner, change) for inner in value]
        return items if any(new is not old and new != old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        parts = {name: inner if name in _UNTOUCHED else map_texts(inner, change) for name, inner in value.items()}
        return parts if parts != value else value
    return value


def edit_distance(left: str, right: str, limit: int) -> int:
    """Optimal string alignment distance (insert, delete, replace, swap neighbours), or limit + 1 when it is larger than `limit`."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        current = [i]
        for j, b in enumerate(right, start=1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        if min(current) > limit:
            return limit + 1
        before, previous = previous, current
    return previous[-1] if previous[-1] <= limit else limit + 1


OPEN = "a quote is opened and never closed"


def split_fields(text: str, delimiter: str) -> tuple[list[str], str | None]:
    """Fields of one record (RFC 4180, section 2, strictly) and what is wrong with it."""
    if '"' not in text:
        return text.split(delimiter), None
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            value, at = "", at + 1
            while True:
                end = text.find('"', at)
                if end < 0:
                    return fields, OPEN
                value += text[at:end]
                at = end + 1
                if not text.startswith('"', at):
                    break
                value, at = value + '"', at + 1
            if at < len(text) and not text.startswith(delimiter, at):
                rest = text[at : text.find(delimiter, at) if text.find(delimiter, at) >= 0 else len(text)]
                if rest.strip(" "):
                    return fields, "text follows a closing quote"
                at += len(rest)
            fields.append(value)
        else:
            end = text.find(delimiter, at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end])
            at = end
        if at >= len(text):
            return fields, None
        at += len(delimiter)
