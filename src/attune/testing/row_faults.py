"""Planted faults of single rows: in some rows of a world, which are then set aside while the others are learned, and in nearly all of them, where the run is
refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attune.core.receipts import ASIDE, FILE
from attune.testing.faults import COUNT, NO_SYSTEM, SYSTEM, Fault, World, _some, answer, question, talk
from attune.testing.models import CHAT_TEMPLATE

USER_FIRST = "{% if (messages | rejectattr('role', 'equalto', 'system') | first).role != 'user' %}{{ raise_exception('the user speaks first') }}{% endif %}" + CHAT_TEMPLATE
MARKS = CHAT_TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] }}{% if m['role'] == 'assistant' and not loop.last %} (said before){% endif %}")
FEW, MOST = 6, COUNT // 5
"""Every so many rows are bad; of the worlds that are to be refused all but every so many."""


def _greeted(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": "Hello, what is it?"}, *talk(number)]}


def _signed(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{question(number)}<|start|>"}, talk(number)[1]]}


def _rambling(number: int) -> dict[str, Any]:
    return {"messages": [talk(number)[0], {"role": "assistant", "content": " ".join(answer(number + i) for i in range(20))}]}


def _ruled(number: int) -> dict[str, Any]:
    return {"messages": talk(number, first=SYSTEM)}


def _talkative(number: int) -> dict[str, Any]:
    return {"messages": [*talk(number), *talk(number + 1)]}


def _pair(number: int, rejected: str) -> dict[str, Any]:
    return {"prompt": question(number), "chosen": answer(number), "rejected": rejected}


def _few(change: Callable[[int], dict[str, Any]], **more: Any) -> Callable[[World], None]:
    def work(world: World) -> None:
        _some(change, FEW)(world)
        vars(world).update(more)

    return work


def _most(change: Callable[[int], dict[str, Any]], **more: Any) -> Callable[[World], None]:
    """Nearly every row is bad."""

    def work(world: World) -> None:
        world.rows = [row if i % MOST == 0 else change(i) for i, row in enumerate(world.rows)]
        vars(world).update(more)

    return work


def _pairs(of: Callable[[Callable[[int], dict[str, Any]]], Callable[[World], None]]) -> Callable[[World], None]:
    """Pairs for dpo, some or most of which have answers that differ only in a letter that nobody sees."""

    def work(world: World) -> None:
        world.rows = [_pair(i, "No.") for i in range(COUNT)]
        world.recipe = {"objective": "dpo"}
        of(lambda i: _pair(i, f"\u200b{answer(i)}"))(world)

    return work


ROW_FAULTS: tuple[Fault, ...] = (
    Fault("assistant_begins", "some conversations begin with the assistant, which this template refuses", _few(_greeted, template=USER_FIRST), "template_refuses"),
    Fault("assistant_begins_mostly", "most conversations begin with the assistant, which this template refuses", _most(_greeted, template=USER_FIRST), "template_refuses"),
    Fault("system_refused_mostly", "the template refuses system turns, which most rows have", _most(_ruled, template=NO_SYSTEM), "template_refuses"),
    Fault("control_token_mostly", "most texts hold this base's control token", _most(_signed), "control_tokens_in_text"),
    Fault("equal_pairs", "some pairs are the same tokens", _pairs(_few), "equal_preference"),
    Fault("equal_pairs_mostly", "most pairs are the same tokens", _pairs(_most), "equal_preference"),
    Fault("long_answers", "some answers are longer than max_length", _few(_rambling), "train.long_rows"),
    Fault("long_answers_mostly", "most answers are longer than max_length", _most(_rambling), "train.long_rows"),
    Fault("some_rewritten", "the template writes earlier turns differently, which some rows have", _few(_talkative, template=MARKS), "reading"),
)
"""Each is noticed by a tripwire, a rule or the reading of rows; a name that ends in 'mostly' is of a world that is to be refused."""


def set_aside(run: Path) -> dict[int, str]:
    """Rows, counted from 0 as in the world, that the run in this folder set aside, and what noticed each."""
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = pq.read_table(run / FILE).to_pylist() if (run / FILE).is_file() else []
    return {one["row"] - 1: one["check"] for one in found if one["action"] == ASIDE}
