"""Conversations that are too long: what the system says and the functions that may be called stay; the oldest turns and steps go, whole."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attune.core.text import portion

Message = dict[str, Any]
Size = Callable[[list[Message], int], int]
"""How many tokens a conversation has, counted as far as so many: of a longer one only that it has more."""
FAR = 10
"""What does not fit is counted as far as so many times the limit."""
TRIES = 8
"""How often a turn that loses its beginning is counted again."""


def by_turns(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> bool:
    """Whether a conversation is shortened by whole turns: it has something that no cut may take, or a function's answer, which means nothing in part."""
    roles = {one["role"] for one in messages}
    return bool(roles & {"system", "tool"} or (tools and "user" in roles))


def without_oldest(tokenizer: Any, messages: Sequence[Message], limit: int, size: Size) -> tuple[Sequence[Message], int]:
    """As much of a conversation's end as fits behind what the system says: from a later user's turn on; else the last user's turn and the last steps behind
    it. A step is an assistant's turn with what the functions answered to it. Where the last turn is the user's and too long by itself, it loses its beginning.

    Args:
        tokenizer: counts what a turn loses.
        messages: what stands before the answer, more than `limit` tokens.
        limit: most tokens of the whole.
        size: of a conversation; asked about twice as often as the number of turns has binary digits at most.

    Returns:
        The conversation and 0; or, where nothing fits, the conversation as it was and how many tokens would do (more than `FAR` times the limit: far more).
    """
    system = [one for one in messages[:1] if one["role"] == "system"]
    users = [number for number, one in enumerate(messages) if one["role"] == "user"]
    asked = [messages[users[-1]]] if users else []
    steps = [number for number, one in enumerate(messages) if one["role"] == "assistant" and (not users or number > users[-1])]
    begins = [(system, number) for number in users if number > len(system)] + [([*system, *asked], number) for number in steps[1:]]
    place = bisect_left(begins, True, key=lambda one: size([*one[0], *messages[one[1] :]], limit) <= limit)
    head, begin = begins[min(place, len(begins) - 1)] if begins else ([], 0)
    kept = [*head, *messages[begin:]]
    if place < len(begins):
        return kept, 0
    if kept and kept[-1]["role"] == "user":
        kept, need = _without_beginning(tokenizer, kept, limit, size)
    else:
        need = size(kept, limit * FAR)
    return (messages, need) if need > limit else (kept, 0)


def _without_beginning(tokenizer: Any, messages: list[Message], limit: int, size: Size) -> tuple[list[Message], int]:
    """The conversation without as many of its last turn's first tokens as it takes, but with the last one; and how many tokens it has then."""
    turn = messages[-1]
    text = portion(turn["content"], limit, end=True)
    places = [begin for begin, _ in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]] or [0]
    lost = need = 0
    for again in range(TRIES):
        messages = [*messages[:-1], {**turn, "content": text[places[lost] :], "train": False}]
        need = size(messages, limit * FAR)
        if need <= limit or lost == len(places) - 1:
            break
        lost = min(lost + ((need - limit) << again), len(places) - 1) if again < TRIES - 2 else len(places) - 1
    return messages, need
