"""Rows that an objective cuts into several examples are told and recorded; others are not mentioned."""

from __future__ import annotations

from attune.stages.finetune.receipts import pieces


def told(names: str) -> str:
    return pieces([{"row_id": name} for name in names], 24)


def test_pieces_are_counted() -> None:
    assert told("aabccc") == "3 training rows are learned in 6 pieces of at most 24 tokens"


def test_a_row_each_is_not_worth_a_word() -> None:
    assert told("abc") == told("") == ""
