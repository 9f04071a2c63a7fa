"""Rows of a probe's own, from a file in any shape that the sources read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attune.core import catalog
from attune.core.contracts import Row, Task
from attune.core.errors import DataError
from attune.core.specialist import Specialist

TEXT = "text"
"""The column of plain texts."""


def records(path: Path, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and values of every record; one that cannot be read is an error."""
    if not path.is_file():
        raise DataError(f"there is no file '{path}'", place=place, fix="give a file relative to the recipe")
    for entry in catalog.entries("sources"):
        source: Any = catalog.build("sources", entry.name)
        if source.recognises(path.name, path.parent):
            for record in source.read(path.name, path.parent):
                if record.values is None:
                    raise DataError(record.problem or "it cannot be read", place=f"{place}: {record.place}", fix=record.fix or "mend the row")
                yield record.place, record.values
            return
    raise DataError(f"no source reads '{path.name}'", place=place, fix="give a CSV, JSON or Parquet file")


def rows_of(task: Task, path: Path, place: str) -> list[Row]:
    """Rows of the task as no objective has shaped them; where records hold a text alone, plain texts (an empty prompt, and the text as its completion)."""
    task = task.unshaped
    found: list[Row] = []
    for number, (where, values) in enumerate(records(path, place)):
        columns: dict[str, Any] = {}
        for role in task.roles:
            name = next((hint for hint in role.hints if values.get(hint) not in (None, "", [])), None)
            if name is not None:
                columns[role.name] = name
        if columns.get("prompt") == TEXT and "completion" not in columns:
            parsed: dict[str, Any] = {"prompt": [], "completion": str(values[TEXT])}
        elif "prompt" in columns:
            parsed = task.parse(values, columns)
        else:
            raise DataError(f"the record has neither a prompt nor a text: {', '.join(values)}", place=f"{place}: {where}", fix="name the columns prompt and completion, or text")
        if parsed.get("completion"):
            found.append({"row_id": f"general-{number}", "place": where, **parsed})
    if not found:
        raise DataError(f"'{path}' holds no row with an answer or a text", place=place, fix="give rows with prompt and completion, or with text")
    return found


def as_it_answers(specialist: Specialist) -> Specialist:
    """The model with its task as no objective has shaped it: general rows have no rewards, no other answer, no label; and nothing is sampled for them."""
    return dataclasses.replace(specialist, task=specialist.task.unshaped, samples=(0, 0.0))


def sample(rows: Sequence[Any], most: int, seed: int, purpose: str) -> list[Any]:
    """At most so many of the rows, the same for the same seed, in their order."""
    from attune.core import randomness

    return [rows[i] for i in sorted(randomness.generator(seed, purpose).permutation(len(rows))[:most])]
