"""What became of rows that cannot be learned, or graded, as they are: a receipt for each, kept beside what was made without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attune.core.plug import Row

FILE = "receipts.parquet"
CUT, ASIDE = "cut", "set aside"
NAMED = 5


@dataclass(frozen=True)
class Receipt:
    """What happened to one row, and why."""

    row: Row
    check: str
    """What noticed it: a tripwire, a recipe key, or 'reading' for a row that the objective could not encode."""
    action: str
    """`CUT` (it is learned, but not all of it) or `ASIDE` (it is not learned at all)."""
    reason: str
    fix: str
    tokens: int | None = None
    """How many tokens it has, where it was counted."""
    lost: int | None = None
    """How many of them are not learned."""
    more: bool = False
    """True when it was counted in part only: it has more tokens than `tokens`, and lost as many more."""


def place_of(row: Row) -> str | None:
    """Where a row stands, for people; a request stands nowhere."""
    place = row.get("place") or row.get("row_id")
    return None if place is None else str(place)


def places(rows: Sequence[Row]) -> str:
    """The first few rows by place."""
    return ", ".join(str(place_of(row)) for row in rows[:NAMED]) + (" ..." if len(rows) > NAMED else "")


def words(receipts: Sequence[Receipt], total: int, what: str) -> list[str]:
    """A sentence per reason: how many rows were set aside, which, and what to do.

    Args:
        receipts: of rows that were set aside.
        total: rows that there were.
        what: of which kind, as in 'training rows'.
    """
    by_reason: dict[tuple[str, str], list[Receipt]] = defaultdict(list)
    for one in receipts:
        by_reason[one.check, one.fix].append(one)
    return [
        f"{len(some):,} of {total:,} {what} are set aside ({check}): {some[0].reason}{', and the like' if len({one.reason for one in some}) > 1 else ''} ({places([one.row for one in some])}) -> {fix}"
        for (check, fix), some in by_reason.items()
    ]


def write(path: Path, receipts: Iterable[tuple[str, Receipt]]) -> None:
    """Write receipts as Parquet, the file whole or not at all: split, file, row, row_id, check, action, reason, fix, tokens, lost, more.

    Args:
        receipts: with the split of each row (train, validation or test).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from attune.core.commit import write_bytes

    text, number = pa.string(), pa.int64()
    columns = [("split", text), ("file", text), ("row", number), ("row_id", text), ("check", text), ("action", text), ("reason", text), ("fix", text), ("tokens", number), ("lost", number)]
    schema = pa.schema([*columns, ("more", pa.bool_())])
    table = pa.Table.from_pylist([_line(split, one) for split, one in receipts], schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def _line(split: str, one: Receipt) -> dict[str, object]:
    place = place_of(one.row) or ""
    file, _, number = place.rpartition(":")
    known = bool(file) and number.isdigit()
    where = {"split": split, "file": file if known else place, "row": int(number) if known else None, "row_id": str(one.row.get("row_id"))}
    told = {name: getattr(one, name) for name in ("check", "action", "tokens", "lost", "more")}
    return {**where, **told, **{name: getattr(one, name).encode("utf-8", "backslashreplace").decode("utf-8") for name in ("reason", "fix")}}
