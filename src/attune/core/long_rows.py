"""Rows that are longer than the model is to read (`train.max_length`), and rows that an objective cannot encode: which of them are learned, and what is
told of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from attune.core.errors import DataError
from attune.core.receipts import ASIDE, CUT, Receipt, places
from attune.core.rows import GENERAL
from attune.core.shortening import FAR

if TYPE_CHECKING:
    from attune.core.contracts import Example, Objective, Row
    from attune.core.recipe import Recipe
    from attune.core.specialist import Specialist

T = TypeVar("T")
SHORTEN, DROP, REFUSE = "shorten", "drop", "refuse"
KEY, READING = "train.long_rows", "reading"
MOST = 0.5
"""A larger share of the domain's rows than this is never set aside unasked: then the recipe or the base is to blame, and the run ends."""
ANSWER = "an answer that does not fit into train.max_length = {} tokens, so its end could not be learned"


class TooLong(DataError):
    """A row that does not fit.

    Args:
        need: tokens that would hold it.
        limit: most tokens there may be.
        more: True when it was not encoded as a whole, so that it needs more than that.
        why: what it has, with a place for the limit.
    """

    def __init__(self, place: str | None, need: int, limit: int, more: bool = False, why: str = ANSWER) -> None:
        super().__init__(f"the row has {why.format(limit)}", place=place, fix="shorten or remove the row")
        self.need, self.more, self.why = need, more, why


def rule_of(recipe: Recipe) -> str:
    """`train.long_rows`, where rows are shortened at all: a key that nothing needs stays unread."""
    return recipe.keys.train.long_rows if "text-in" in recipe.task.traits and recipe.objective.shortens else SHORTEN


def too_many(bad: Sequence[Row], rows: Sequence[Row]) -> bool:
    """Whether so many of the rows are bad that they are not to blame one by one: more than half of the domain's own, or of the general ones."""
    for general in (False, True):
        some, every = (sum(bool(row.get(GENERAL)) == general for row in part) for part in (bad, rows))
        if some > MOST * every:
            return True
    return False


def each_that_fits(specialist: Specialist, rows: Sequence[Row], limit: int, encode: Callable[[Row], T], size: Callable[[Row], int]) -> list[tuple[Row, T]]:
    """Every row with what `encode` makes of it. Rows that are too long for any cut, and rows that cannot be encoded, are left out and noted (`Specialist.noted`).

    Args:
        limit: most tokens of a row.
        encode: raises TooLong, or another DataError.
        size: counts the tokens of a whole row, as far as `core.shortening.FAR` times the limit.

    Raises:
        DataError: more than half of the domain's rows are so; of those that are too long it names them all, and a length that would do where the base has one.
    """
    found: list[tuple[Row, T]] = []
    long: list[tuple[Row, TooLong]] = []
    other: list[tuple[Row, DataError]] = []
    for row in rows:
        try:
            found.append((row, encode(row)))
        except TooLong as error:
            long.append((row, error))
        except DataError as error:
            other.append((row, error))
    own = [row for row in rows if not row.get(GENERAL)]
    blame = [row for row, _ in ([] if specialist.long_rows in (DROP, REFUSE) else long) + other if not row.get(GENERAL)]
    if len(blame) > MOST * len(own):
        mine = [error for row, error in long if not row.get(GENERAL)]
        others = [error for row, error in other if not row.get(GENERAL)]
        raise _refused_long(specialist, mine, len(rows), limit) if len(mine) >= len(others) else others[0]
    room = _room(specialist) if long else 0
    for row, why in long:
        whole = max(size(row), why.need)
        specialist.noted(Receipt(row, KEY, ASIDE, f"the row has {why.why.format(limit)}", _way_out(room, why.need), whole, whole, whole > FAR * limit))
    for row, problem in other:
        specialist.noted(Receipt(row, READING, ASIDE, problem.what, problem.fix or "mend the row"))
    return found


def _refused_long(specialist: Specialist, long: Sequence[TooLong], total: int, limit: int) -> DataError:
    return DataError(
        f"{len(long)} of {total} rows have {', or '.join(dict.fromkeys(one.why.format(limit) for one in long))}",
        place=", ".join(str(one.place) for one in long[:5]) + (" ..." if len(long) > 5 else ""),
        fix=f"{_longer(specialist, max(one.need for one in long), any(one.more for one in long))}shorten or remove these rows",
    )


def _room(specialist: Specialist) -> int:
    """Most tokens that the base reads."""
    found: int = getattr(specialist.base.config(), "max_position_embeddings", None) or 1 << 30
    return found


def _way_out(room: int, need: int | None) -> str:
    return f"shorten the row: the base reads {room} tokens" if (need or 0) > room else "raise train.max_length, or shorten the row"


def _longer(specialist: Specialist, need: int, more: bool) -> str:
    """The first half of a way out: a length that would do, or that the base has none."""
    room = _room(specialist)
    return f"the base reads {room} tokens: " if need > room else f"set train.max_length to {f'far more than {need}' if more else f'{need} or more'}, or "


def encoded(objective: Objective, specialist: Specialist, rows: Sequence[Row], limit: int) -> tuple[list[Example], list[Receipt]]:
    """The examples of rows as `Specialist.long_rows` wants them, and a receipt for every row that is cut or set aside.

    Raises:
        DataError: the rule is 'refuse' and rows of the domain are longer than `limit`; the rule is 'drop' and none of them is left; what the objective raises.
    """
    receipts: list[Receipt] = []
    known = {row["row_id"]: row for row in rows}
    examples = objective.examples(dataclasses.replace(specialist, noted=receipts.append), rows, limit)
    shorter = [one for one in examples if one.get("cut")]
    room = _room(specialist) if shorter else 0
    cut = [_cut(room, known[one["row_id"]], one, limit) for one in shorter]
    if specialist.long_rows == SHORTEN:
        return examples, [*cut, *receipts]
    own = [one for one in [*cut, *receipts] if one.check == KEY and not one.row.get(GENERAL)]
    if specialist.long_rows == REFUSE and own:
        sizes = [one.tokens for one in own if one.tokens is not None]
        raise DataError(
            f"{len(own):,} of {len(rows):,} rows are longer than train.max_length = {limit} tokens, and train.long_rows is refuse",
            place=places([one.row for one in own]),
            fix=f"{_longer(specialist, max(sizes), any(one.more for one in own)) if sizes else 'raise train.max_length, '}set train.long_rows to shorten or drop, or shorten these rows",
        )
    gone = {one.row["row_id"] for one in cut}
    left = [one for one in examples if one["row_id"] not in gone]
    if own and all(known[one["row_id"]].get(GENERAL) for one in left):
        raise DataError(
            f"all {len(own):,} rows are longer than train.max_length = {limit} tokens, and train.long_rows = {specialist.long_rows} leaves them out",
            place=places([one.row for one in own]),
            fix="raise train.max_length, or set train.long_rows to shorten",
        )
    aside = [dataclasses.replace(one, action=ASIDE, reason=f"the row is longer than train.max_length = {limit} tokens", lost=one.tokens) for one in cut]
    return left, [*aside, *receipts]


def _cut(room: int, row: Row, example: Example, limit: int) -> Receipt:
    size, reason = example.get("whole"), f"the row is longer than train.max_length = {limit} tokens and is cut there"
    return Receipt(row, KEY, CUT, reason, _way_out(room, size), size, example.get("lost"), bool(example.get("more")))


def cut_facts(cut: bool, whole: int, kept: int, more: bool) -> dict[str, int | bool]:
    """What an example says of a row that does not fit: `cut`, and where it is true `whole` (tokens that it has), `lost` (those that are not learned) and `more`
    (True where it has more than were counted).

    Args:
        whole: tokens of the row, as far as they were counted.
        kept: tokens that are left of it.
        more: whether there are more.
    """
    return {"cut": True, "whole": whole, "lost": max(whole - kept, 1), "more": more} if cut else {"cut": False}
