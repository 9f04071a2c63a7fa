"""Which rows train, which choose the checkpoint and which are sealed for the verdict.

Rows that must stay together (equal or near-equal texts, rows of one group) form a unit; units, not rows, are dealt out. Dealing follows
iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, algorithm 1): the rarest label first, each unit to the split that still wants
most of it; the order of units is a hash of their content and the seed, so neither the order of rows nor the number of files matters.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from attune.core.contracts import Check, Row, Task
from attune.core.errors import DataError
from attune.core.recipe_data import shares
from attune.core.similar import Groups, questions
from attune.core.text import normalise

CROWD = 0.5
"""Share of the rows in one unit from which no fair split can be made of them."""
LEAST_TEST = 5
"""Fewer held-out rows than this cannot carry a verdict at all."""
WORDS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test"}
ORDER = ("train", "test", "validation")


@dataclass(frozen=True)
class Plan:
    """What the recipe says about splits."""

    by: str
    test: float
    validation: float
    seed: int
    previous: Mapping[str, str] = field(default_factory=dict)
    """row_id -> split of an earlier dataset version; those rows stay where they were."""
    sealed: frozenset[str] = frozenset()
    """Ids of rows that a verdict on this specialist has looked at: where the recipe deals out the test rows, they test again and never train."""


def labels_of(task: Task, row: Row) -> list[str]:
    """The row's labels where the task has a label (or true and false) to answer, else one common stratum."""
    target = next((role for role in task.roles if role.target and role.type in ("label", "labels", "flag")), None)
    if target is None:
        return [""]
    value = row.get(target.name)
    return [str(one) for one in value] or ["(none)"] if isinstance(value, list) else [str(value)]


def given_split(word: Any) -> str | None:
    """train, validation or test from the words people use; None when it is none of them."""
    return WORDS.get(str(word).strip().casefold())


def assign(rows: Sequence[Row], task: Task, links: Sequence[tuple[str, str]], plan: Plan) -> tuple[dict[str, str], list[str], list[str]]:
    """Split of every row (row_id -> split), sentences about what a reader should act on, and sentences worth knowing.

    Raises:
        DataError: the recipe gives no test row, or time leaves none.
    """
    given = {row["row_id"]: str(row["split"]) for row in rows if row.get("split")}
    has = set(given.values())
    if plan.by == "given" and "test" not in has:
        raise DataError("no row is given as a test row", place="data.splits.given", fix="mark rows 'test' in that column, give a file with `test_path`, or split `by: stratified`")
    if "validation" not in has:
        given = {name: split for name, split in given.items() if split == "test"}  # validation rows come out of the training rows
    units = _units(rows, links)
    found = {row["row_id"]: plan.previous[row["row_id"]] for row in rows if row["row_id"] in plan.previous} | given
    kinds: dict[int, set[str]] = defaultdict(set)
    for unit, row in zip(units, rows, strict=True):
        if row["row_id"] in plan.previous:
            kinds[unit].add(plan.previous[row["row_id"]])
    for unit, row in zip(units, rows, strict=True):
        if row["row_id"] not in found and kinds[unit]:
            # A new row close to earlier ones goes with them; where they disagree it trains, and the leakage check decides.
            found[row["row_id"]] = next(iter(kinds[unit])) if len(kinds[unit]) == 1 else "train"
    free = [i for i, row in enumerate(rows) if row["row_id"] not in found]
    test = 0.0 if "test" in has else plan.test
    validation = 0.0 if "validation" in has else plan.validation
    dealt = _by_time(rows, free, test, validation) if plan.by == "time" else _deal(rows, task, units, free, test, validation, plan.seed)
    found.update({rows[i]["row_id"]: split for i, split in dealt.items()})
    if plan.by == "time" and "test" not in found.values():
        raise DataError("the newest moment holds too many rows to hold rows out by time", place="data.splits.time", fix="give a finer time, or split `by: stratified`")
    if "test" not in has:
        notes = _keep_sealed(rows, task, units, found, frozenset(given) | plan.previous.keys(), plan)
        return found, _rare(rows, task, found), notes
    learned = sum(found[row["row_id"]] != "test" for row in rows if row["row_id"] in plan.sealed)
    told = [f"{learned} row(s) that a verdict on this specialist has looked at are not among the given test rows, so now they are learned from"] if learned else []
    return found, [*told, *_rare(rows, task, found)], []


def _keep_sealed(rows: Sequence[Row], task: Task, units: Sequence[int], found: dict[str, str], fixed: Set[str], plan: Plan) -> list[str]:
    """Puts rows that were opened before back among the test rows, each with its whole unit. Rows that nobody looked at leave the test for
    them, label by label, as far as it has grown beyond its share; rows in `fixed` do not. Without such strays nothing changes."""
    sealed = {unit for unit, row in zip(units, rows, strict=True) if row["row_id"] in plan.sealed}
    strays = [row["row_id"] for unit, row in zip(units, rows, strict=True) if unit in sealed and found[row["row_id"]] != "test"]
    if not strays:
        return []
    found.update(dict.fromkeys(strays, "test"))
    over: Counter[str] = Counter()
    members: dict[int, list[int]] = defaultdict(list)
    for i, (unit, row) in enumerate(zip(units, rows, strict=True)):
        for label in labels_of(task, row):
            over[label] += (found[row["row_id"]] == "test") - plan.test  # type: ignore[assignment]
        members[unit].append(i)
    excess = sum(split == "test" for split in found.values()) - round(plan.test * len(rows))
    free = [inside for unit, inside in members.items() if unit not in sealed and all(found[rows[i]["row_id"]] == "test" and rows[i]["row_id"] not in fixed for i in inside)]
    for inside in sorted(free, key=lambda one: min(hashlib.sha256(f"{plan.seed} {rows[i]['row_id']}".encode()).hexdigest() for i in one)) if plan.by != "time" else ():
        content = Counter(label for i in inside for label in labels_of(task, rows[i]))
        if len(inside) <= excess and all(over[label] >= number - 0.5 for label, number in content.items()):
            found.update({rows[i]["row_id"]: "train" for i in inside})
            excess -= len(inside)
            over.subtract(content)
    return [
        f"{len(strays)} row(s) that this recipe would learn from stay test rows, because a verdict on this specialist has looked at them or at rows that belong to them; "
        "to deal all rows anew, give the specialist another name"
    ]


def require_enough(rows: int, test: float, losses: str = "") -> None:
    """Raises DataError when a share `test` of `rows` usable rows is too small a held-out test; `losses` says what became of others."""
    needed = math.ceil(LEAST_TEST / test)
    if rows < needed:
        raise DataError(
            f"{rows} usable row(s) are too few: a held-out test of {test:.0%} would have {int(rows * test)} row(s), and a verdict needs at least {LEAST_TEST}" + (f"; {losses}" if losses else ""),
            place="data",
            fix=f"give at least {needed} usable rows (a few hundred give a narrow interval), or a file of test rows with `test_path`",
        )


def _units(rows: Sequence[Row], links: Sequence[tuple[str, str]]) -> list[int]:
    index = {row["row_id"]: i for i, row in enumerate(rows)}
    pairs = [(index[a], index[b]) for a, b in links if a in index and b in index]
    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        keys = [("text", row["same_text"])] if row.get("same_text") else []
        keys += [("group", str(row["group"]))] if row.get("group") is not None else []
        for key in keys:
            pairs.append((first.setdefault(key, i), i))
    groups = Groups(len(rows), pairs)
    return [groups.of(i) for i in range(len(rows))]


def largest(rows: Sequence[Row], links: Sequence[tuple[str, str]]) -> int:
    """Rows of the largest unit."""
    return max(Counter(_units(rows, links)).values(), default=0)


def crowded(rows: int, together: int, alike: Sequence[str], checks: Sequence[Check]) -> tuple[str, str]:
    """That most of the rows stay in one split, and the way out.

    Args:
        rows: all of them.
        together: rows of the largest unit.
        alike: names of the checks that joined rows.
        checks: the recipe's.
    """
    why = f"because the check {', '.join(alike)} finds them alike" if alike else "because they have the same text or stand in one group"
    without = [check.name for check in checks if check.name not in alike and check.phase != "split"]
    compare = [check.name for check in checks if check.name not in without]
    fix = (
        f"shorten what they have in common; where they are different all the same, leave out {' and '.join(compare)}: `data: {{checks: [{', '.join(without)}]}}`"
        if alike
        else "give more rows of other texts or groups"
    )
    return f"{together:,} of {rows:,} rows stay together in one split, {why}", fix


def with_same_text(rows: Sequence[Row], task: Task) -> list[Row]:
    """Rows with what makes two of them the same text, for `assign`."""
    return [{**row, "same_text": normalise(text)} for row, text in zip(rows, questions(task, rows), strict=True)]


def _deal(rows: Sequence[Row], task: Task, units: Sequence[int], free: Sequence[int], test: float, validation: float, seed: int) -> dict[int, str]:
    members: dict[int, list[int]] = defaultdict(list)
    for i in free:
        members[units[i]].append(i)
    content: dict[int, Counter[str]] = {unit: Counter(label for i in inside for label in labels_of(task, rows[i])) for unit, inside in members.items()}
    rank = {unit: min(hashlib.sha256(f"{seed} {rows[i]['row_id']}".encode()).hexdigest() for i in inside) for unit, inside in members.items()}
    total: Counter[str] = Counter()
    for counter in content.values():
        total.update(counter)
    parts = shares(test, validation)
    wanted = {label: {split: share * n for split, share in parts.items()} for label, n in total.items()}
    rows_wanted = {split: share * len(free) for split, share in parts.items()}
    possible = [split for split in ORDER if parts[split] > 0]
    by_label: dict[str, list[int]] = defaultdict(list)
    for unit, counter in content.items():
        by_label[min(counter, key=lambda label: (total[label], label))].append(unit)
    found: dict[int, str] = {}
    for label in sorted(by_label, key=lambda one: (total[one], one)):
        for unit in sorted(by_label[label], key=lambda one: (-len(members[one]) if len(members[one]) > 1 else 0, rank[one])):
            size = content[unit][label]
            # Largest remaining wish for the label, then for rows; a unit that is larger than the wish goes where it does least harm.
            split = max(possible, key=lambda s: (min(wanted[label][s] - size, 0.0) if size > 1 else 0.0, wanted[label][s], rows_wanted[s], -ORDER.index(s)))
            for i in members[unit]:
                found[i] = split
            for one, n in content[unit].items():
                wanted[one][split] -= n
            rows_wanted[split] -= len(members[unit])
    return found


def _by_time(rows: Sequence[Row], free: Sequence[int], test: float, validation: float) -> dict[int, str]:
    """Newest rows test, the next newest validate; rows of one moment stay together. Rows without a moment train."""
    timed = sorted((i for i in free if rows[i].get("moment") is not None), key=lambda i: (rows[i]["moment"], rows[i]["row_id"]))
    found = dict.fromkeys(free, "train")
    edges = [(round(len(timed) * shares(test, validation)["train"]), "validation"), (round(len(timed) * (1 - test)), "test")]
    for edge, split in edges:
        while 0 < edge < len(timed) and rows[timed[edge]]["moment"] == rows[timed[edge - 1]]["moment"]:
            edge += 1
        for i in timed[edge:]:
            found[i] = split
    return found


def moment(value: Any, day_first: bool) -> float | None:
    """Seconds (or the number itself) of a time as people write it; None when it cannot be read."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return number if math.isfinite(number) else None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None  # type: ignore[assignment]
        for form in ("%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y/%m/%d %H:%M", "%Y/%m/%d", *(("%d/%m/%Y %H:%M", "%d/%m/%Y") if day_first else ("%m/%d/%Y %H:%M", "%m/%d/%Y")), "%b %d, %Y", "%d %b %Y"):
            try:
                found = datetime.strptime(text, form)
                break
            except ValueError:
                continue
    if found is None:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _rare(rows: Sequence[Row], task: Task, splits: Mapping[str, str]) -> list[str]:
    places: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for label in labels_of(task, row):
            places[label][splits[row["row_id"]]] += 1
    if set(places) <= {""}:
        return []
    told = []
    for split, meaning in (("train", "cannot be learnt"), ("test", "is not tested")):
        absent = sorted(label for label, counter in places.items() if not counter[split])
        if absent:
            told.append(f"{len(absent)} label(s) have no {split} row, so each {meaning}: " + ", ".join(f"'{label}' ({places[label].total()} rows)" for label in absent[:8]))
    return told
