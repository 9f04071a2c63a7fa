"""A first look at a recipe's rows without curating them: which source reads them, which column plays which role, how it parses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from attune.core.contracts import CheckContext, RawRecord
from attune.core.errors import DataError
from attune.core.recipe import Recipe
from attune.core.recipe_data import shares
from attune.core.text import excerpt
from attune.stages.curate import replay
from attune.stages.curate.columns import Columns, detect, named, profiles, suggestions
from attune.stages.curate.reading import locations
from attune.stages.curate.splits import CROWD, crowded, given_split, largest, with_same_text

MOST = 200_000
"""Records that are looked at."""
COUNTING = 10.0
"""Seconds for which those beyond are counted, where their number is asked for."""
SHOWN = 3
SAMPLED = 1000
COPIED = 0.5
"""Share of rows that differ from each other up to which copies are spoken of."""
FEW = 10
"""So many labels that come once may be typing errors; more of them, in most of the rows, are not labels."""


@dataclass
class Preview:
    """What was seen."""

    sources: list[tuple[str, str]] = field(default_factory=list)
    """(path, source's name), in reading order."""
    names: list[str] = field(default_factory=list)
    """Columns in the data."""
    columns: Columns = field(default_factory=dict)
    """Role -> column, or several."""
    read: int = 0
    more: bool = False
    """True when there are more than `MOST` records."""
    beyond: int | None = None
    """How many records more, where they were all counted."""
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    """(place, problem, fix) of records that will be set aside."""
    given: Counter[str] = field(default_factory=Counter)
    """Split as the recipe gives it ('' where it gives none) -> parsed rows, and records beyond `MOST` where they were all counted."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The first parsed rows, with `place`."""
    sample: list[dict[str, Any]] = field(default_factory=list)
    """Parsed rows spread over the whole of them, at most twice `SAMPLED`, each with `place` and `row_id`."""
    general: list[dict[str, Any]] = field(default_factory=list)
    """Some of the first general rows (`data.replay`), about as many as would train beside `sample`, each with `place` and `row_id`."""
    labels: Counter[str] = field(default_factory=Counter)
    """Value -> rows, for tasks with labels."""
    shapes: dict[str, Counter[str]] = field(default_factory=dict)
    """File -> shape -> rows, for tasks that read more than columns."""
    hints: list[str] = field(default_factory=list)
    """Sentences about columns that are not used and could be."""
    warnings: list[str] = field(default_factory=list)
    """Sentences about what will cost rows."""

    def dealt(self, recipe: Recipe) -> dict[str, int]:
        """About how many rows each split will have, before the checks: those that the recipe gives, and the shares of the others."""
        keys, given = recipe.keys.data, dict(self.given)
        has = {split for split in given if split} | ({"test"} if keys.test_path else set())
        if "validation" not in has:  # as when rows are divided: validation rows come out of the training rows then
            given = {"": sum(number for split, number in given.items() if split != "test"), "test": given.get("test", 0)}
        parts = shares(0.0 if "test" in has else keys.splits.test, 0.0 if "validation" in has else keys.splits.validation)
        return {split: given.get(split, 0) + round(given.get("", 0) * share) for split, share in parts.items()}


def preview(recipe: Recipe, *, count: bool = False) -> Preview:
    """Read, detect the columns and parse; nothing is written.

    Args:
        count: also count the records beyond those that are looked at, for some seconds at most.

    Raises:
        DataError: the data cannot be opened, holds no rows, or a column is missing or unclear.
    """
    found = Preview()
    records: list[RawRecord] = []
    split_of: list[str] = []
    beyond = _Beyond(recipe) if count else None
    for location in locations(recipe, None):
        found.sources.append((location.path, location.source.name))
        for record in location.records():
            if found.read == MOST:
                found.more = True
                if beyond is None or not beyond.counted(record, location.split):
                    beyond = None
                    break
                continue
            found.read += 1
            if record.values is None:
                found.unreadable.append((record.place, record.problem or "not readable", record.fix or ""))
            else:
                records.append(record)
                split_of.append(location.split or "")
    if not found.read:
        raise DataError("there are no rows", place="data.path", fix="give a file that holds rows")
    if not records:
        raise DataError("there are no readable rows", place="data.path", fix="; ".join(f"{place}: {problem}" for place, problem, _ in found.unreadable[:3]) or "give a file that holds rows")
    seen = profiles(records)
    splits = recipe.keys.data.splits
    taken = [name for name in (splits.group, splits.time, splits.given) if name]
    for key, name in (("group", splits.group), ("time", splits.time), ("given", splits.given)):
        if name and name not in seen:
            raise DataError(f"there is no column '{name}'", place=f"data.splits.{key}", fix="the columns are: " + ", ".join(seen))
    found.names = list(seen)
    found.columns = detect(recipe.task, seen, recipe.keys.data.columns, taken, records[:20])
    found.hints = suggestions(recipe.task, seen, [*named(found.columns), *taken], found.columns, records)
    targets = [role.name for role in recipe.task.roles if role.target and role.type in ("label", "labels")]
    stride = max(1, len(records) // SAMPLED)
    parsed, different = 0, set()
    for number, (record, known) in enumerate(zip(records, split_of, strict=True)):
        try:
            row = recipe.task.parse(dict(record.values or {}), found.columns)
            split = known or _split(record, splits.given if splits.by == "given" else None)
        except DataError as error:
            found.unreadable.append((record.place, error.what, error.fix or ""))
            continue
        finally:
            shape = recipe.task.shape(record.values or {})
            if shape:
                found.shapes.setdefault(record.place.rpartition(":")[0], Counter())[shape] += 1
        parsed += 1
        found.given[split] += 1
        different.add(hash(repr(row)))
        if len(found.rows) < SHOWN:
            found.rows.append({"place": record.place, **row})
        if number % stride == 0 and all(row.get(role.name) not in (None, "") for role in recipe.task.roles if role.required):
            found.sample.append({"place": record.place, "row_id": str(number), **row})
        for target in targets:
            value = row.get(target)
            found.labels.update(str(one) for one in (value if isinstance(value, list) else [value]) if one not in (None, ""))
    if found.more and beyond is not None:
        found.beyond = beyond.splits.total()
        found.given += beyond.splits
    if len(different) <= COPIED * parsed and parsed > 1:
        found.warnings.append(f"only {len(different):,} of {parsed:,} rows differ from each other; a copy says nothing new, and the check exact_duplicates leaves one of each")
    general, bad, shapes = replay.preview(recipe, SAMPLED)
    if shapes:
        found.shapes[f"general rows of {recipe.keys.data.replay.path}"] = shapes
    found.general = general[:: max(1, len(general) // recipe.keys.data.replay.beside(len(found.sample)))] if general else []
    if bad:
        (place, problem, fix), looked = bad[0], len(bad) + len(general)
        found.warnings.append(
            f"{len(bad):,} of the first {looked:,} general rows (data.replay.path) cannot be read and would be left out, the first at {place}: {problem}" + (f" -> {fix}" if fix else "")
        )
    once = sum(1 for number in found.labels.values() if number == 1)
    if once > max(FEW, 0.5 * found.labels.total()):
        column = found.columns.get(targets[0], targets[0])
        raise DataError(
            f"column '{column}' holds {len(found.labels):,} different labels, {once:,} of them once: from that nothing can be learned",
            place=f"data.columns.{targets[0]}",
            fix="name the column that holds the classes; the columns are: " + ", ".join(found.names),
        )
    return found


class _Beyond:
    """Counts records that are not looked at, by the split that the recipe gives them."""

    def __init__(self, recipe: Recipe) -> None:
        self.column = recipe.keys.data.splits.given if recipe.keys.data.splits.by == "given" else None
        self.splits: Counter[str] = Counter()
        self.until: float | None = None

    def counted(self, record: RawRecord, split: str | None) -> bool:
        """Take one more; False when time is up."""
        self.until = self.until or time.monotonic() + COUNTING
        if record.values is not None:
            with suppress(DataError):  # a row that says no split is set aside by a run
                self.splits[split or _split(record, self.column)] += 1
        return time.monotonic() < self.until


def _split(record: RawRecord, column: str | None) -> str:
    """What a column says about the split of a row; nothing without one."""
    if column is None:
        return ""
    word = str((record.values or {}).get(column) or "")
    split = given_split(word)
    if split is None:
        raise DataError(f"'{excerpt(word, 30)}' is not a split", place=column, fix="write train, validation or test")
    return split


def crowd(recipe: Recipe, rows: Sequence[dict[str, Any]]) -> str | None:
    """A sentence where the checks of all rows together would put most of these rows into one split; None where they would not."""
    task = recipe.task
    checks = recipe.plugs("checks", recipe.keys.data.checks, task.defaults.checks)
    context = CheckContext(task, {}, recipe.keys.seed)
    found = [(check.name, one) for check in checks if check.phase == "table" for one in check.examine(rows, context) if one.action == "flag" and one.related]
    together = largest(with_same_text(rows, task), [(one.row_id, str(one.related)) for _, one in found])
    if together < max(FEW, CROWD * len(rows)):
        return None
    return " -> ".join(crowded(len(rows), together, sorted({name for name, _ in found}), checks))


def kept(recipe: Recipe, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without those that the checks of single rows would set aside; repairs are made, nothing is written."""
    task = recipe.task
    left = {str(row["row_id"]): row for row in rows}
    context = CheckContext(task, {}, recipe.keys.seed)
    for check in recipe.plugs("checks", recipe.keys.data.checks, task.defaults.checks):
        if check.phase != "row":
            continue
        for finding in list(check.examine(list(left.values()), context)):
            if finding.action in ("quarantine", "block"):
                left.pop(finding.row_id, None)
            elif finding.action == "repair" and finding.row_id in left:
                left[finding.row_id] = {**left[finding.row_id], finding.column: finding.replacement}
    return list(left.values())
