"""Conversations that are too long: what the system says stays, and so do the functions that may be called; the oldest other turns go."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attune.core.text import portion

Message = dict[str, Any]
GIVEN = ("user", "tool")
"""Who may lose the beginning of a turn: what the assistant said stands whole or not at all."""


def keeps_beginning(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> bool:
    """Whether a conversation begins with something that no cut may take."""
    return bool(tools) or (bool(messages) and messages[0]["role"] == "system")


def without_oldest(tokenizer: Any, messages: Sequence[Message], limit: int, over: Callable[[list[Message]], int]) -> tuple[list[Message], int]:
    """As much of a conversation's end as fits behind what the system says, always from a user's turn on, so that every template can write it.

    Where even the last user's turn is too long, it loses its beginning, and so does what functions answered to it.

    Args:
        tokenizer: counts what a turn loses.
        messages: what stands before the answer.
        limit: most tokens of the whole.
        over: how many tokens a conversation has too many; 0 or less where it fits.

    Returns:
        The conversation, and how many tokens it still has too many: 0 where it fits.
    """
    system = [one for one in messages[:1] if one["role"] == "system"]
    begins = [number for number, one in enumerate(messages) if number > len(system) and one["role"] == "user"]
    place = bisect_left(begins, True, key=lambda begin: over([*system, *messages[begin:]]) <= 0)
    if place < len(begins):
        return [*system, *messages[begins[place] :]], 0
    kept = [*system, *messages[begins[-1] if begins else len(system) :]]
    more = over(kept)
    for number, turn in enumerate(kept):
        if more > 0 and turn["role"] in GIVEN:
            kept, more = _without_beginning(tokenizer, kept, number, limit, over)
    return kept, max(more, 0)


def _without_beginning(tokenizer: Any, messages: Sequence[Message], number: int, limit: int, over: Callable[[list[Message]], int]) -> tuple[list[Message], int]:
    """The conversation without as many of a turn's first tokens as it takes, but with its last; and how many tokens are too many then."""
    text = portion(messages[number]["content"], limit, end=True)
    places = [begin for begin, _ in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]] or [0]

    def without(tokens: int) -> list[Message]:
        return [*messages[:number], {**messages[number], "content": text[places[tokens] :], "train": False}, *messages[number + 1 :]]

    lost = 0
    while (more := over(without(lost))) > 0 and lost < len(places) - 1:
        lost = min(lost + more, len(places) - 1)
    while more <= 0 < lost and over(without(lost - 1)) <= 0:
        lost -= 1
    return without(lost), more
