"""A chat template as Ollama's: found out from what the Jinja template writes, and believed only when both write the same for every kind of conversation.

Ollama's templates are Go templates. The one written here runs over the messages and puts fixed texts around each; a Jinja template that does more than
that (tools, thoughts, contents rewritten or moved) writes something else for one of the conversations tried, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from attune.core.conversation import Message
from attune.core.errors import DataError, PlugError

MARKS = {"system": "Alpha words", "user": "Bravo words", "assistant": "Charlie words"}
Renders = Callable[[Sequence[Message], bool], str]
"""(messages, to_answer) -> text without a begin token in front."""
SHAPES = ("u", "ua", "uau", "uauau", "su", "sua", "suau", "suauau")
"""Conversations tried: s(ystem), u(ser), a(ssistant)."""
NAMES = {"s": "system", "u": "user", "a": "assistant"}
PIECE = re.compile(r"\{\{-? ?(.*?) ?-?\}\}", re.DOTALL)


def _talk(shape: str, pad: str = "") -> list[Message]:
    return [{"role": NAMES[one], "content": f"{pad}{MARKS[NAMES[one]]} {number}{pad}"} for number, one in enumerate(shape)]


def _refuse(why: str) -> PlugError:
    return PlugError(f"the chat template cannot be written as Ollama's: {why}", place="exports.ollama", fix="export it as 'gguf' or 'merged': their engines read the template as it is")


def translated(render: Renders) -> tuple[str, list[str]]:
    """The Go template, and what people must know of it.

    Raises:
        PlugError: no such template writes what the Jinja template writes.
    """
    notes = []
    try:
        render(_talk("su"), True)
        system = True
    except DataError:
        system = False
        notes.append("the template has no system messages; Ollama leaves them out")
    template = _assembled(render, system)
    for shape in (one for one in SHAPES if system or "s" not in one):
        wanted = _attempt(render, _talk(shape), to_answer=shape.endswith("u"))
        if wanted is not None and shape.endswith("u") and rendered(template, _talk(shape)) != wanted:
            raise _refuse(f"a conversation of {', '.join(NAMES[one] for one in shape)} comes out differently")
    padded = _talk("uau", " ")
    if rendered(template, padded) != _attempt(render, padded, to_answer=True):
        stripped = [{**one, "content": one["content"].strip()} for one in padded]
        if rendered(template, stripped) != _attempt(render, padded, to_answer=True):
            raise _refuse("it rewrites contents")
        notes.append("the template cuts spaces around a message away, which Ollama's cannot: send messages without them")
    return template, notes


def _attempt(render: Renders, talk: Sequence[Message], *, to_answer: bool) -> str | None:
    """What the template writes; None for a conversation that it refuses."""
    try:
        return render(talk, to_answer)
    except DataError:
        return None


def _between(text: str, talk: Sequence[Message]) -> list[str]:
    """What stands before, between and behind the contents."""
    found = []
    for message in talk:
        before, mark, text = text.partition(message["content"])
        if not mark:
            raise _refuse("it leaves a message out, or changes its text")
        found.append(before)
    return [*found, text]


def _cut(text: str, end: str, what: str) -> str:
    if not text.endswith(end):
        raise _refuse(f"what it writes around {what} depends on the rest of the conversation")
    return text[: len(text) - len(end)]


def _assembled(render: Renders, system: bool) -> str:
    """Fixed texts around the messages of each role, from the differences between conversations."""
    one, three = _talk("u"), _talk("uau")
    ask = render(one, True)
    plain, longer = render(one, False), _between(render(three, False), three)
    if not ask.startswith(plain):
        raise _refuse("it writes a question differently once an answer is asked for")
    answered = _between(render(_talk("ua"), False), _talk("ua"))
    opening, behind_user = _between(plain, one)
    behind_answer = answered[2]
    if not longer[2].startswith(behind_answer) or not longer[1].startswith(behind_user):
        raise _refuse("what it writes around an answer depends on the rest of the conversation")
    before_user, before_answer = longer[2][len(behind_answer) :], longer[1][len(behind_user) :]
    first = _cut(opening, before_user, "the first question")
    parts = {"user": (before_user, behind_user), "assistant": (before_answer, behind_answer)}
    first_system = ""
    if system:
        with_system = _between(render(_talk("su"), False), _talk("su"))
        first_system, behind_system = with_system[0], _cut(with_system[1], before_user, "a system message")
        parts = {"system": ("", behind_system), **parts}
    for text in (first, first_system, ask[len(plain) :], *(side for pair in parts.values() for side in pair)):
        if "{{" in text or "}}" in text or '"""' in text:
            raise _refuse("it writes braces or quotes that Ollama's cannot hold")
    start = f'{{{{ if eq $i 0 }}}}{{{{ if eq $m.Role "system" }}}}{first_system}{{{{ else }}}}{first}{{{{ end }}}}{{{{ end }}}}' if first or first_system else ""
    branches = "".join(f'{{{{ {"else if" if number else "if"} eq $m.Role "{role}" }}}}{a}{{{{ $m.Content }}}}{b}' for number, (role, (a, b)) in enumerate(parts.items()))
    return "{{ range $i, $m := .Messages }}" + start + branches + "{{ end }}{{ end }}" + ask[len(plain) :]


def rendered(template: str, messages: Sequence[Message]) -> str:
    """What such a template writes: range, if, else, end and the fields of a message, as Go's text/template defines them.

    Raises:
        PlugError: it says something else.
    """
    pieces = PIECE.split(template)  # text, action, text, action, ...
    return _run(pieces, 0, len(pieces), messages, None)


def _run(pieces: list[str], begin: int, end: int, messages: Sequence[Message], current: tuple[int, Message] | None) -> str:
    found, at = "", begin
    while at < end:
        if at % 2 == 0:
            found, at = found + pieces[at], at + 1
            continue
        action = pieces[at]
        if action == "$m.Content" and current is not None:
            found, at = found + current[1]["content"], at + 1
        elif action.startswith("range $i, $m := .Messages"):
            arms, close = _arms(pieces, at)
            found += "".join(_run(pieces, arms[0][0], arms[0][1], messages, pair) for pair in enumerate(messages))
            at = close + 1
        elif action.startswith("if ") and current is not None:
            arms, close = _arms(pieces, at)
            chosen = next((arm for arm in arms if _holds(pieces[arm[0] - 1], current)), None)
            found += _run(pieces, chosen[0], chosen[1], messages, current) if chosen else ""
            at = close + 1
        else:
            raise _refuse(f"'{{{{ {action} }}}}' is not known here")
    return found


def _arms(pieces: list[str], at: int) -> tuple[list[tuple[int, int]], int]:
    """The parts of a block that opens at `at`, each from behind its action to before the next, and where it closes."""
    arms, depth, begin = [], 0, at + 1
    for i in range(at + 2, len(pieces), 2):
        word = pieces[i].split(" ")[0]
        if word in ("if", "range"):
            depth += 1
        elif word == "else" and depth == 0:
            arms.append((begin, i))
            begin = i + 1
        elif word == "end":
            if depth == 0:
                return [*arms, (begin, i)], i
            depth -= 1
    raise _refuse("a block of it never ends")


def _holds(action: str, current: tuple[int, Message]) -> bool:
    condition = action.removeprefix("else").strip().removeprefix("if").strip()
    said = re.fullmatch(r'eq \$m\.Role "(\w+)"', condition)
    if said:
        return bool(current[1]["role"] == said[1])
    if condition == "eq $i 0":
        return current[0] == 0
    if not condition:
        return True
    raise _refuse(f"the condition '{condition}' is not known here")
