"""People judge: the duels are written into a file without names and in drawn order; grade again when they have filled in which answer is better."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from attune.core.commit import write_text
from attune.core.contracts import Duel, Judge
from attune.core.errors import DataError
from attune.core.files import decode_lines, table_text
from attune.core.keys import Keys, key

COLUMNS = ("id", "question", "right_answer", "answer_1", "answer_2", "better")
MARK = "\ufeff"
"""Without it spreadsheets take UTF-8 for another encoding."""
SAID = {"1": 1.0, "2": 0.0, "tie": 0.5, "0": 0.5, "equal": 0.5, "": None}
DELIMITERS = ",;\t|"
"""What programs put between the cells when they save a table as text."""


class PeopleKeys(Keys):
    """Keys of the judge."""

    file: str = key("judgements.csv", "CSV or JSON file to fill in (column `better`: 1, 2 or tie), relative to the recipe")


class People(Judge):
    """A duel whose `better` is empty is not decided yet. Rows that were filled in are kept, also for later gradings with the same answers."""

    keys_type = PeopleKeys
    both_orders: ClassVar[bool] = False

    def reads(self) -> Sequence[Path]:
        """The file."""
        path = self.located(self.keys.file)
        return (path,) if path.is_file() else ()  # the first grading writes it

    def prefer(self, duels: Sequence[Duel]) -> list[float | None]:
        """What the file says; duels that are not in it are added."""
        path = self.located(self.keys.file)
        rows = _read(path) if path.is_file() else {}
        new = {duel.id: _row(duel) for duel in duels if duel.id not in rows}
        if new:
            write_text(path, _written(path, [*rows.values(), *new.values()]))
        return [_verdict(rows[duel.id], path) if duel.id in rows else None for duel in duels]


def _row(duel: Duel) -> dict[str, str]:
    return {"id": duel.id, "question": duel.question, "right_answer": duel.right or "", "answer_1": duel.first, "answer_2": duel.second, "better": ""}


def _verdict(row: dict[str, str], path: Path) -> float | None:
    said = row["better"].strip().lower()
    if said not in SAID:
        raise DataError(f"'{row['better']}' does not say which answer is better", place=f"{path.name}, id {row['id']}", fix="write 1, 2 or tie, or leave it empty")
    return SAID[said]


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The file as whatever program saved it: in its encoding, with its sign between the cells."""
    try:
        lines = [line for line, _ in decode_lines(path.read_bytes())]
        text = "\n".join(lines)
        rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=lines[0].count)))
        return {str(row["id"]): {name: str(row[name] if row[name] is not None else "") for name in COLUMNS} for row in rows}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        why = f"column {error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise DataError(f"the judgements cannot be read: {why}", place=str(path), fix=f"keep the columns {', '.join(COLUMNS)}, and save it as 'CSV UTF-8' or, where it is JSON, as JSON") from error


def _written(path: Path, rows: Sequence[dict[str, str]]) -> str:
    if path.suffix == ".json":
        return json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"
    return MARK + table_text([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
