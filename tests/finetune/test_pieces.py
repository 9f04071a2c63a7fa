"""Rows that an objective cuts into several examples, or leaves out, are told and recorded; others are not mentioned."""

from __future__ import annotations

from types import SimpleNamespace

from attune.core.events import Events
from attune.stages.finetune.stage import Session

ROWS = [{"row_id": name} for name in "abc"]


def told(names: str) -> tuple[str, list[tuple[str, object]]]:
    """The record, and what was said with which rows."""
    heard: list[tuple[str, object]] = []
    session = SimpleNamespace(max_length=24, events=Events(None, (lambda event: heard.append((event["message"], event.get("rows"))),)))
    return Session._tell_cut(session, ROWS, [{"row_id": name} for name in names]), heard  # type: ignore[arg-type]


def test_rows_that_are_left_out_are_named() -> None:
    record, heard = told("ac")
    assert record.startswith("1 of 3 training rows are left out")
    assert [rows for _, rows in heard] == [["b"]]


def test_pieces_are_counted() -> None:
    record, heard = told("aabccc")
    assert record == "3 training rows are learned in 6 pieces of at most 24 tokens"
    assert len(heard) == 1


def test_a_row_each_is_not_worth_a_word() -> None:
    assert told("abc") == ("", [])
