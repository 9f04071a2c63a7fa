"""General rows that train beside the domain's own, so that what the base could before is not forgotten (replay: Robins 1995; for language models
Scialom et al. 2022, 'Fine-tuned Language Models are Continual Learners'). They only ever train: none of them validates or tests."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
from collections import Counter
from typing import Any

from attune.core.contracts import Finding, RawRecord, Row, Task
from attune.core.errors import DataError
from attune.core.recipe import Recipe
from attune.core.records import canonical_json
from attune.core.rows import GENERAL
from attune.core.text import excerpt, normalise
from attune.stages.curate import columns, reading, splits
from attune.stages.curate.gate import READING, Gate


def admit(recipe: Recipe, gate: Gate, parse: Any, draws: int = 0) -> bool:
    """Draw as many general records as could be needed, by a hash of their content and the seed, and let them in at the gate.

    Args:
        parse: called with (records, columns) as the domain's own are parsed.
        draws: how often too few of them were left; each time twice as many are drawn, the same ones first.

    Returns:
        Whether the file holds more than were drawn.
    """
    place = reading.replay_location(recipe)
    if place is None:
        return False
    most = recipe.keys.data.replay.beside(len(gate.rows)) * _passes(recipe) << draws
    drawn = [
        record for _, _, record in heapq.nsmallest(most + 1, ((_rank(recipe.keys.seed, canonical_json(record.values)), record.place, record) for record in place.records()), key=lambda one: one[:2])
    ]
    good: list[tuple[reading.Location, RawRecord]] = []
    for record in sorted(drawn[:most], key=lambda one: one.place):
        gate.read += 1
        if record.values is None:
            gate.refuse(record, READING, "", record.problem or "cannot be read", record.fix or "mend the record")
        else:
            good.append((place, _as_answered(recipe.task, record)))
    set_aside = len(gate.quarantine)
    parse(good, _columns(recipe, place, [record for _, record in good]))
    if not any(row.get(GENERAL) for row in gate.rows.values()):
        first = gate.quarantine[set_aside:][:1]
        raise _unreadable(place, len(good), *((one["reason"], one["fix"]) for one in first))
    return len(drawn) > most


def preview(recipe: Recipe, most: int) -> tuple[list[Row], list[tuple[str, str, str]], Counter[str]]:
    """The first general rows as they would be read, at most so many, each with `place` and `row_id`; (place, problem, fix) of those that cannot be; and
    how many have which shape. Without replay all three are empty.

    Raises:
        DataError: none of them can be read.
    """
    place = reading.replay_location(recipe)
    rows: list[Row] = []
    bad: list[tuple[str, str, str]] = []
    records = list(itertools.islice(place.records(), most)) if place is not None else []
    if place is None:
        return rows, bad, Counter()
    whole = [_as_answered(recipe.task, record) for record in records if record.values is not None]
    bad += [(record.place, record.problem or "not readable", record.fix or "") for record in records if record.values is None]
    chosen = _columns(recipe, place, whole)
    for number, record in enumerate(whole):
        try:
            row = recipe.task.parse(dict(record.values or {}), chosen)
        except DataError as error:
            bad.append((record.place, error.what, error.fix or ""))
            continue
        missing = next((role.name for role in recipe.task.roles if role.required and row.get(role.name) is None), None)
        if missing:
            bad.append((record.place, f"no {missing}", "fill it in, or delete the row"))
        else:
            rows.append({"place": record.place, "row_id": f"general-{number}", GENERAL: True, **row})
    if not rows:
        raise _unreadable(place, len(records), *((problem, fix) for _, problem, fix in bad[:1]))
    return rows, bad, Counter(shape for record in records if record.values is not None for shape in [recipe.task.shape(record.values)] if shape)


def _columns(recipe: Recipe, place: reading.Location, records: list[RawRecord]) -> columns.Columns:
    """Which column of the general rows plays which role."""
    if not records:
        raise _unreadable(place, 0)
    try:
        return columns.detect(recipe.task, columns.profiles(records), dict(recipe.keys.data.replay.columns), [], records[:20])
    except DataError as error:
        there = (error.place or "").replace("data.columns", "data.replay.columns")
        fix = (error.fix or "give a file of rows in a shape that the task reads").replace("data.columns", "data.replay.columns")
        raise DataError(f"the general rows of '{place.path}' cannot be read: {error.what}", place=there if "replay" in there else "data.replay.path", fix=fix) from error


def _unreadable(place: reading.Location, rows: int, *first: tuple[str, str]) -> DataError:
    why, fix = first[0] if first else ("", "")
    what = f"none of the {rows:,} general rows of '{place.path}' can be read" if rows else f"'{place.path}' holds no row that can be read"
    return DataError(what + (f"; the first: {why}" if why else ""), place="data.replay.path", fix=fix or "give a file of rows in a shape that the task reads")


def settle(recipe: Recipe, gate: Gate) -> None:
    """Set aside general rows that would stand in the way of the domain's own: the same text again, an unknown label."""
    task = recipe.task
    own = [row for row in gate.rows.values() if not row.get(GENERAL)]
    texts = {normalise(task.text(row)) for row in own}
    labels = {label for row in own for label in splits.labels_of(task, row)}
    target = next((role.name for role in task.roles if role.target), task.roles[0].name)
    asked = next(role.name for role in task.roles if not role.target)
    for name, row in list(gate.rows.items()):
        if not row.get(GENERAL):
            continue
        strange = sorted(set(splits.labels_of(task, row)) - labels)
        if strange:
            gate.apply(READING, Finding(name, target, f"general row with a label that no row of the domain has: '{excerpt(strange[0], 30)}'", "quarantine", "nothing to do: it is not replayed"))
        elif normalise(task.text(row)) in texts:
            gate.apply(READING, Finding(name, asked, "general row with the text of a row of the domain", "quarantine", "nothing to do: the domain's row stays"))


def trim(recipe: Recipe, gate: Gate, placed: dict[str, str], opened: frozenset[str]) -> tuple[str | None, bool]:
    """Leave as many general rows as the recipe's share of a pass and its number of passes ask for; the others were never read. Rows in `opened`, which a
    verdict has looked at, never train. Returns a sentence about it, and whether there were enough."""
    if recipe.keys.data.replay.path is None:
        return None, True
    asked = next(role.name for role in recipe.task.roles if not role.target)
    for name in [name for name, row in gate.rows.items() if row.get(GENERAL) and name in opened]:
        gate.apply(READING, Finding(name, asked, "general row that a verdict on this specialist has looked at", "quarantine", "nothing to do: it is not replayed"))
    there = [name for name, row in gate.rows.items() if row.get(GENERAL)]
    own = sum(placed[name] == "train" for name in gate.rows) - len(there)
    each = recipe.keys.data.replay.beside(own)
    wanted = each * _passes(recipe)
    for name in sorted(there, key=lambda one: _rank(recipe.keys.seed, one))[wanted:]:
        gate.withdraw(name)
    left = min(wanted, len(there))
    few = "" if left == wanted else f"; {wanted} were wanted, there are no more"
    others = f", others in each of the first {left / each:.3g} passes" if left > each else ""
    each = min(left, each)
    said = f"{left} general rows of {recipe.keys.data.replay.path} train beside {own} of the domain{few}: {each} in a pass ({each / max(1, each + own):.0%} of its rows){others}; none of them validates or tests"
    return said, left == wanted


def _passes(recipe: Recipe) -> int:
    """How many passes find other general rows. What is not learned by gradient descent is learned from the rows of one pass."""
    return recipe.keys.data.replay.passes if "torch" in recipe.task.traits else 1


def _as_answered(task: Task, record: RawRecord) -> RawRecord:
    """A plain text as the segment that it is, so that a task that answers learns it without a template."""
    values = record.values or {}
    if task.shaped or "text-out" not in task.traits or task.shape(values) != "raw text":
        return record
    left = {name: value for name, value in values.items() if name != "text"}
    return dataclasses.replace(record, values={**left, "segments": [{"label": True, "text": str(values["text"])}]})


def own_rows(gate: Gate, task: Task) -> list[dict[str, Any]]:
    """The domain's rows, ready to be divided."""
    return splits.with_same_text([row for row in gate.rows.values() if not row.get(GENERAL)], task)


def _rank(seed: int, what: str) -> str:
    return hashlib.sha256(f"replay {seed} {what}".encode("utf-8", "backslashreplace")).hexdigest()
