"""Which column plays which role: from the names people use and from the values, shown and never guessed in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from attune.core import pii
from attune.core.contracts import RawRecord, Role, Task
from attune.core.errors import DataError, RecipeError, did_you_mean
from attune.core.text import excerpt

SAMPLE = 2000
"""Records that decide; taken evenly over the file."""
GROUP_HINTS = ("customer", "client", "user", "patient", "account", "session", "conversation", "thread", "author", "person", "member", "household", "group")
TIME_HINTS = ("time", "date", "created", "timestamp", "day", "datum", "received", "sent")
SPLIT_WORDS = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "testing"))
DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*")


SENTENCE = 8
"""So many words are a text, however often it comes again."""
READ_BESIDE = 20
"""Records that tell whether a column is read that plays no role."""
FEW = 50
"""Up to so many rows, labels are told by values that come again rather than by how few different ones there are."""


@dataclass
class Profile:
    """What the values of one column look like."""

    name: str
    filled: int = 0
    distinct: int = 0
    repeated: float = 0.0
    """Share of the filled cells whose value comes more than once."""
    words: float = 0.0
    characters: float = 0.0
    numeric: float = 0.0
    dates: float = 0.0
    lists: float = 0.0
    messages: float = 0.0
    samples: list[str] = field(default_factory=list)
    values: Counter[str] = field(default_factory=Counter)

    @property
    def reads_like_text(self) -> bool:
        """Several words, mostly different from row to row."""
        return self.filled > 0 and self.numeric < 0.5 and self.dates < 0.5 and self.messages < 0.5 and self.words >= 2.0 and self.distinct > max(1, 0.2 * self.filled)

    @property
    def reads_like_label(self) -> bool:
        """Short values that come again and again."""
        short = self.filled > 0 and self.characters <= 60 and self.words <= 8 and self.dates < 0.5
        return short and self.distinct >= 2 and (self.distinct <= max(2, 0.34 * self.filled) or self.repeats_in_few_rows) and not self.names_splits

    @property
    def repeats_in_few_rows(self) -> bool:
        """Short values most of which come again among few rows, where a share of different ones says little."""
        return self.filled <= FEW and self.characters <= 40 and self.words <= 3 and self.repeated >= 0.5

    @property
    def names_splits(self) -> bool:
        """Says train, validation or test."""
        return 0 < self.distinct <= 5 and {value.casefold() for value in self.values} <= SPLIT_WORDS

    @property
    def reads_like_id(self) -> bool:
        """Every row its own short value, or consecutive numbers."""
        return self.filled > 5 and self.distinct == self.filled and self.words < 1.5 and self.characters <= 40


def profiles(records: Sequence[RawRecord]) -> dict[str, Profile]:
    """Per column, in order of appearance, over at most `SAMPLE` records."""
    step = max(1, len(records) // SAMPLE)
    found: dict[str, Profile] = {}
    cells: dict[str, list[Any]] = {}
    for record in records[::step]:
        for name, value in (record.values or {}).items():
            cells.setdefault(name, []).append(value)
    for name, values in cells.items():
        filled = [v for v in values if v is not None and v != "" and v != []]
        texts = [v.strip() if isinstance(v, str) else str(v) for v in filled]
        one = found[name] = Profile(name, len(filled), values=Counter(texts))
        if not filled:
            continue
        one.distinct = len(one.values)
        one.repeated = sum(n for n in one.values.values() if n > 1) / len(filled)
        one.words = sum(len(t.split()) for t in texts) / len(texts)
        one.characters = sum(map(len, texts)) / len(texts)
        one.numeric = sum(_is_number(v) for v in filled) / len(filled)
        one.dates = sum(bool(DATE.fullmatch(t)) for t in texts) / len(filled)
        one.lists = sum(isinstance(v, list) for v in filled) / len(filled)
        one.messages = sum(isinstance(v, list) and bool(v) and isinstance(v[0], dict) for v in filled) / len(filled)
        one.samples = [excerpt(pii.mask(v), 60) for v in list(dict.fromkeys(texts))[:3]]
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, (int, float)):
        return True
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def fold(name: str) -> str:
    """A column's name without case, signs and plural, so that 'Labels ' is a label."""
    return re.sub(r"[^a-z0-9]+", "", name.casefold()).removesuffix("s")


def _named(role: Role, found: dict[str, Profile], free: Sequence[str]) -> str | None:
    """The free column whose name says the role: exactly, or as a word of its name; the earliest hint wins, among columns whose values can be the role.

    Of a role that may hold numbers, a column with its very name is it, and one called like a hint before any that only resembles it.
    """
    hints = (role.name, *role.hints)
    able = [name for name in free if _possible(role, found[name])]
    filled = [name for name in free if found[name].filled] if role.numbers else []
    for names, said in ((filled, hints[:1]), (able, hints), (filled, hints)):
        for hint in said:
            own = next((name for name in names if fold(name) == fold(hint)), None)
            if own is not None:
                return own
    for hint in hints:
        words = [name for name in able if fold(hint) in {fold(word) for word in re.split(r"[^A-Za-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name))}]
        if len(words) == 1:
            return words[0]
    return None


def _possible(role: Role, profile: Profile) -> bool:
    """False where the values rule a role out, unless the column is called exactly so."""
    if role.type == "text":
        return profile.filled > 0 and profile.numeric < 0.9 and profile.dates < 0.9
    return profile.filled > 0 and not (role.type == "label" and profile.words > 15)


def _fits(role: Role, profile: Profile) -> bool:
    if role.type == "text":
        return profile.reads_like_text
    if role.type == "label":
        return profile.reads_like_label
    if role.type == "labels":
        return profile.lists > 0.5 or profile.reads_like_label
    if role.type == "number":
        return profile.numeric > 0.95 and not profile.reads_like_id
    if role.type == "messages":
        return profile.messages > 0.5 or profile.reads_like_text
    return False


Columns = dict[str, str | list[str]]
"""Role -> column; for a role of type `features` a list of columns."""


def named(columns: Columns) -> list[str]:
    """Every column that plays a role."""
    return [name for column in columns.values() for name in ([column] if isinstance(column, str) else column)]


def shown(columns: Columns) -> str:
    """Roles and columns for reading."""
    return ", ".join(f"{role} = " + (f"'{column}'" if isinstance(column, str) else f"{len(column)} columns (" + ", ".join(f"'{one}'" for one in column) + ")") for role, column in columns.items())


def detect(task: Task, found: dict[str, Profile], given: Columns, taken: Sequence[str], sample: Sequence[RawRecord]) -> Columns:
    """Role -> column; a role of type `features` takes every column that is left and does not look like an id, a time, a split or a free text.

    Args:
        task: whose roles are looked for.
        found: the columns.
        given: what the user wrote in `data.columns`.
        taken: columns that serve as group, time or split and cannot play a role.
        sample: a few good records, to see whether the task can read them without more columns (chat messages, alpaca ...).

    Raises:
        RecipeError: `given` names a role that the task does not have.
        DataError: a column is missing, or several could be meant; lists the columns and what to write.
    """
    roles = {role.name: role for role in task.roles}
    for name, column in given.items():
        if name not in roles:
            raise RecipeError(f"task '{task.name}' has no role '{name}'", place="data.columns", fix=did_you_mean(name, roles))
        if isinstance(column, list) and (roles[name].type != "features" or not column):
            raise RecipeError(
                f"{len(column)} columns are given as {name}", place=f"data.columns.{name}", fix="name one column" if roles[name].type != "features" else "name the columns, or leave it out"
            )
        for one in named({name: column}):
            if one not in found:
                raise DataError(f"there is no column '{one}'\n{_listing(found)}", place=f"data.columns.{name}", fix=did_you_mean(one, found))
            twin = next(role for role, other in given.items() if one in named({role: other}))
            if isinstance(column, list) and column.count(one) > 1:
                raise DataError(f"column '{one}' is named twice", place=f"data.columns.{name}", fix="name it once")
            if twin != name:
                raise DataError(f"column '{one}' is given as {twin} and as {name}", place=f"data.columns.{name}", fix=f"name another column for the {name}; the columns are:\n{_listing(found)}")
    chosen: Columns = {role: [column] if roles[role].type == "features" and isinstance(column, str) else column for role, column in given.items()}
    free = [name for name in found if name not in taken and name not in named(chosen)]
    rest = [role for role in task.roles if role.type == "features" and role.name not in chosen]
    open_roles = [role for role in task.roles if role.name not in chosen and role not in rest]
    for role in open_roles:
        speaking = _named(role, found, free)
        if speaking is not None:
            chosen[role.name] = speaking
            free.remove(speaking)
    missing = [role for role in open_roles if role.name not in chosen and role.required]
    targets = [role for role in task.roles if role.target]
    if targets and not any(role.required or role.name in chosen for role in targets):
        missing.append(targets[0])  # no single target is required, but one of them must be there to learn from
    if missing and _task_reads(task, sample, chosen):
        return chosen
    if missing:
        _tell_refusal(task, sample, chosen)
    for role in sorted(missing, key=lambda r: r.type in ("text", "any", "messages")):
        able = [name for name in free if _fits(role, found[name]) and not found[name].reads_like_id]
        rivals = [r for r in missing if r.type in ("text", "messages") and r.name not in chosen]
        if role.type in ("text", "messages") and len(rivals) > 1 and len(able) == len(rivals):
            name = able[0]  # as many texts as are looked for: the order of the columns decides, and is shown
        elif role.type in ("text", "messages") and able:
            longest = sorted(able, key=lambda n: -found[n].characters)
            if len(longest) > 1 and found[longest[1]].characters > 0.5 * found[longest[0]].characters:
                raise _unclear(task, role, able, found, chosen)
            name = longest[0]
        elif len(able) == 1:
            name = able[0]
        elif able:
            raise _unclear(task, role, able, found, chosen)
        else:
            raise _nothing(task, role, free, found, chosen)
        chosen[role.name] = name
        free.remove(name)
    for role in rest:
        chosen[role.name] = [name for name in free if found[name].filled and not _not_a_feature(found[name])]
        if not chosen[role.name]:
            raise _nothing(task, role, free, found, chosen)
        free = []
    return {role.name: chosen[role.name] for role in task.roles if role.name in chosen}


ID_WORDS = frozenset(("id", "ids", "uid", "uuid", "guid", "index", "no", "nr", "number", "row", "key", "ref", "reference"))


def _not_a_feature(profile: Profile) -> str | None:
    """Why a column is left out of the features unless the recipe names it, or None."""
    if profile.names_splits:
        return "says which split a row belongs to"
    if profile.dates > 0.9:
        return "looks like a time"
    if (
        profile.filled > 5
        and profile.distinct == profile.filled
        and ((profile.words < 1.5 and profile.numeric < 0.5) or _counts_up(profile) or ID_WORDS & set(re.split(r"[^a-z0-9]+", profile.name.casefold())))
    ):
        return "looks like an id"
    if profile.reads_like_text and profile.words >= 4 and profile.distinct > 0.5 * profile.filled:
        return "holds free text"
    return None


def _counts_up(profile: Profile) -> bool:
    """Whole numbers with one and the same step."""
    try:
        numbers = sorted(int(value) for value in profile.values)
    except ValueError:
        return False
    return len({b - a for a, b in pairwise(numbers)}) == 1


def _task_reads(task: Task, sample: Sequence[RawRecord], columns: Columns) -> bool:
    """True when the task makes every required role and a target out of most of the sample's records by itself."""
    required = [role.name for role in task.roles if role.required]
    targets = [role.name for role in task.roles if role.target]
    whole = 0
    for record in sample:
        try:
            row = task.parse(dict(record.values or {}), columns)
        except (DataError, KeyError, TypeError, AttributeError):
            continue
        whole += all(row.get(name) is not None for name in required) and any(row.get(name) is not None for name in targets)
    return whole > len(sample) / 2


def _tell_refusal(task: Task, sample: Sequence[RawRecord], columns: Columns) -> None:
    """Raise why the task cannot read the first record, where it knows the shapes of all of them: then no other column would help."""
    if not sample or any(task.shape(record.values or {}) in ("", "columns") for record in sample):
        return
    refused: list[tuple[str, DataError]] = []
    for record in sample:
        try:
            task.parse(dict(record.values or {}), columns)
        except DataError as error:
            refused.append((record.place, error))
    if len(refused) == len(sample):
        place, first = refused[0]
        raise DataError(f"none of the first {len(sample)} rows can be used: {first.what}", place=f"{place} {first.place or ''}".strip(), fix=first.fix)


def _listing(found: dict[str, Profile]) -> str:
    return "\n".join(f"    {name}: " + (" | ".join(profile.samples) or "(always empty)") for name, profile in found.items())


def _to_write(task: Task, found: dict[str, Profile], chosen: Columns, role: Role, options: Sequence[str]) -> str:
    """The line to put into the recipe, with what is known filled in and the longest text proposed where a text is open."""
    free = [profile for profile in found.values() if profile.name not in named(chosen) and profile.name not in options]
    longest = max(free, key=lambda profile: profile.characters, default=None)

    def column(one: Role) -> str:
        if one.name in chosen:
            known = chosen[one.name]
            return known if isinstance(known, str) else "[" + ", ".join(known) + "]"
        if one.name == role.name:
            return " or ".join(options) or "COLUMN"
        return longest.name if one.type == "text" and longest is not None else "COLUMN"

    return "write `columns: {" + ", ".join(f"{r.name}: {column(r)}" for r in task.roles if (r.type != "features" and (r.required or r.name == role.name)) or r.name in chosen) + "}` under `data`"


def _unclear(task: Task, role: Role, able: Sequence[str], found: dict[str, Profile], chosen: Columns) -> DataError:
    names = ", ".join(f"'{name}'" for name in able)
    return DataError(f"the {role.name} ({role.meaning}) could be in {names}; the columns are:\n{_listing(found)}", place="data.columns", fix=_to_write(task, found, chosen, role, able))


def _nothing(task: Task, role: Role, free: Sequence[str], found: dict[str, Profile], chosen: Columns) -> DataError:
    if len(found) == 1:
        only = next(iter(found))
        what = f"there is one column only ('{only}'), and the task needs {', '.join(r.name for r in task.roles if r.required)}"
        return DataError(f"{what}:\n{_listing(found)}", place="data", fix='add the missing column; if the fields are there, check the delimiter: `source: {name: csv, delimiter: ";"}`')
    ids = [name for name in free if role.type == "label" and found[name].distinct > 0.34 * max(1, found[name].filled)]
    reason = f" ('{ids[0]}' differs in almost every row, so it looks like ids or texts, not labels)" if ids else ""
    return DataError(f"no column looks like the {role.name} ({role.meaning}){reason}; the columns are:\n{_listing(found)}", place="data.columns", fix=_to_write(task, found, chosen, role, []))


def suggestions(task: Task, found: dict[str, Profile], used: Sequence[str], columns: Columns, records: Sequence[RawRecord]) -> list[str]:
    """Sentences about columns that are not used and could be: customers, dates, splits, ids, texts.

    Args:
        task: that reads the rows.
        found: the columns.
        used: those that play a role or split the rows.
        columns: role -> column.
        records: to see which columns the task reads beside those of its roles.
    """
    told = []
    takes_tables = any(role.type == "features" for role in task.roles)
    for name, profile in found.items():
        if name in used or not profile.filled:
            continue
        folded = fold(name)
        if profile.names_splits:
            told.append(f"column '{name}' says which split a row belongs to; `splits: {{by: given, given: {name}}}` would follow it")
        elif profile.dates > 0.9 or (any(h in folded for h in TIME_HINTS) and profile.numeric > 0.9):
            told.append(f"column '{name}' looks like a time; `splits: {{by: time, time: {name}}}` would test on the newest rows")
        elif any(h in folded for h in GROUP_HINTS) and profile.repeated > 0.1 and profile.words < 4:
            told.append(f"column '{name}' repeats over rows; `splits: {{by: group, group: {name}}}` would keep all rows of one {name} in one split")
        elif profile.reads_like_id or takes_tables:
            told.append(f"column '{name}' {_not_a_feature(profile) or 'looks like an id'} and is not used")
        elif (profile.reads_like_text or (profile.words >= SENTENCE and profile.distinct > 1)) and not _read_beside(task, name, columns, records):
            told.append(f"column '{name}' reads like text and is not used; where the model needs it, join it with the text that is read")
    return told


def _read_beside(task: Task, name: str, columns: Columns, records: Sequence[RawRecord]) -> bool:
    """Whether a column that plays no role is read all the same: without it, a row would be another one. True also for one that holds no text."""
    holding = list(islice((record.values for record in records if record.values and record.values.get(name) not in (None, "", [])), READ_BESIDE))
    return any(not isinstance(values[name], str) or _parsed(task, values, columns) != _parsed(task, {one: value for one, value in values.items() if one != name}, columns) for values in holding)


def _parsed(task: Task, values: Mapping[str, Any], columns: Columns) -> Any:
    try:
        return task.parse(dict(values), columns)
    except DataError as error:
        return error.what
