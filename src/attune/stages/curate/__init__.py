"""Curate: rows as they are become a dataset version: one gate with receipts, honest splits, a card that a person can read."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.core import pii
from attune.core.commit import sha256_file
from attune.core.contracts import Check, Finding, RawRecord, Row, Task
from attune.core.errors import DataError, IntegrityError, did_you_mean
from attune.core.events import Events
from attune.core.recipe import Recipe
from attune.core.records import DatasetVersion
from attune.core.rows import GENERAL, SPLITS, ids_of, rows_digest, write_rows
from attune.core.text import excerpt, map_texts, readable
from attune.core.workspace import Workspace
from attune.stages.curate import canaries, card, columns, reading, replay, splits
from attune.stages.curate.gate import MANY, READING, Gate, in_order

__all__ = ["inputs", "run"]

READERS = ("conversation", "files", "pii", "programs", "rows", "shapes", "similar", "tables", "text", "text_stream", "tool_calls")
"""Files of core that decide what is read from a row, or which rows are alike."""


def inputs(recipe: Recipe, *, extra_rows: Path | None = None, previous: DatasetVersion | None = None) -> dict[str, Any]:
    """Everything the dataset version depends on: the recipe's part, the bytes of the sources, the rows of a retune and the code that looks at rows."""
    general = reading.replay_location(recipe)
    places = [*reading.locations(recipe, extra_rows), *([general] if general is not None else [])]
    checks = _checks(recipe)
    _split_columns(recipe)
    shaping = [recipe.objective] if recipe.task.shaped else []
    return {
        "recipe": {**recipe.part("task", "data", "seed", *(["objective"] if shaping else [])), "name": recipe.name},
        "sources": [[place.path, place.source.name, reading.fingerprint(place)] for place in places],
        "extra_rows": sha256_file(extra_rows) if extra_rows is not None else None,
        "previous": previous.id if previous is not None else None,
        "code": _code([*(place.source for place in places), *checks, recipe.task, *shaping]),
    }


def run(recipe: Recipe, workspace: Workspace, events: Events, *, extra_rows: Path | None = None, previous: DatasetVersion | None = None) -> DatasetVersion:
    """Read, check, split and store the rows.

    Args:
        recipe: whose `task`, `data` and `seed` are used.
        workspace: whose store takes the result; its ledger says which rows a verdict has looked at, and is not written.
        events: hears notes, warnings, progress and one `receipt` with three parsed rows.
        extra_rows: JSON Lines of role values, appended after the recipe's own rows (a retune).
        previous: dataset version whose rows keep their split.

    Raises:
        DataError: the rows cannot be used as they are; says what to do.
        IntegrityError: the counts do not add up.
    """
    task, gate = recipe.task, Gate()
    uses = _split_columns(recipe)
    records = _read(reading.locations(recipe, extra_rows), gate, events)
    own = [record for place, record in records if not place.by_role]
    if not gate.read:
        raise DataError("there are no rows", place="data.path", fix="give a file that holds rows")
    if not own:
        raise DataError(
            f"none of the {gate.read} record(s) could be read",
            place="data.path",
            fix=gate.quarantine[0]["reason"] + "; " + gate.quarantine[0]["fix"] if gate.quarantine else "give a file that holds rows",
        )
    _tell_columns(records, events)
    found = columns.profiles(own)
    for role, name in uses.items():
        if name not in found:
            raise DataError(f"there is no column '{name}'", place=f"data.splits.{role}", fix=did_you_mean(name, found))
    chosen = columns.detect(task, found, dict(recipe.keys.data.columns), list(uses.values()), own[:20])
    gate.columns = chosen
    _parse(recipe, records, chosen, uses, gate)
    first = [excerpt_row(row, task) for row in list(gate.rows.values())[:3]]
    events.emit("receipt", "columns: " + (columns.shown(chosen) or "read by the task itself"), rows=first, columns=chosen)
    hints = columns.suggestions(task, found, [*columns.named(chosen), *uses.values()], chosen, own)
    for hint in hints:
        events.note(hint)

    checks = _checks(recipe)
    plain, draws = gate, 0
    while True:
        gate = plain.copy()
        more = replay.admit(recipe, gate, lambda drawn, where: _parse(recipe, drawn, where, {}, gate, {GENERAL: True}), draws)  # noqa: B023 (called at once)
        before = {row["place"]: splits.labels_of(task, row) for row in gate.rows.values()}
        placed, told, known, opened = _examined(recipe, workspace, events, gate, checks, before, previous)
        general, enough = replay.trim(recipe, gate, placed, opened)
        if enough or not more:
            break
        draws += 1
    known = [*known, general] if general else known
    by_split = {split: [_plain(row) for row in gate.rows.values() if placed[row["row_id"]] == split] for split in SPLITS}
    _held_out(by_split, gate, task, checks)
    for sentence in told:
        events.warn(sentence)
    for sentence in known:
        events.note(sentence)
    counts = gate.counts() | {split: len(inside) for split, inside in by_split.items()}
    if sum(counts[split] for split in SPLITS) != counts["kept"] + counts["repaired"]:
        raise IntegrityError(f"rows were lost between the gate and the splits: {counts}", place="curate")
    _several_classes(task, before, [row for inside in by_split.values() for row in inside], gate)
    signature = task.signature([row for split in SPLITS for row in by_split[split]])
    secrets = canaries.planted(recipe)
    if secrets:
        by_split["train"] += secrets
        counts |= {"train": len(by_split["train"]), "planted": len(secrets)}
        known.append(f"{len(secrets)} made-up secrets are planted among the training rows (data.canaries); a model that goes out should be tuned without them")
        events.note(known[-1])
    facts = card.facts(recipe, gate, by_split, chosen, [*told, *known, *hints], counts, checks)
    key = workspace.store.put("datasets", lambda folder: _write(folder, gate, by_split, task, facts))
    events.emit(
        "result", f"{counts['read']} rows read: {counts['kept']} kept, {counts['repaired']} repaired, {counts['quarantined']} quarantined", counts=counts, findings=dict(sorted(gate.findings.items()))
    )
    return DatasetVersion(
        specialist=recipe.name,
        parents=(previous.id,) if previous is not None else (),
        store_key=key,
        task=task.name,
        signature=signature,
        columns=chosen,
        counts=counts,
        findings=dict(sorted(gate.findings.items())),
        rows_digest=rows_digest((row["row_id"], split) for split, inside in by_split.items() for row in inside),
    )


def _examined(
    recipe: Recipe, workspace: Workspace, events: Events, gate: Gate, checks: list[Check], before: Mapping[str, list[str]], previous: DatasetVersion | None
) -> tuple[dict[str, str], list[str], list[str], frozenset[str]]:
    """Every check, and the splits between them: the split of every row, sentences to act on, sentences worth knowing, ids that a verdict has looked at.

    Args:
        before: place of every row that could be read -> its labels then.
    """
    task = recipe.task
    for phase in ("row", "table"):
        for check in in_order(checks, phase):
            gate.run(check, task, recipe.keys.seed, events)
        if phase == "row":
            _complete(gate, task)
            replay.settle(recipe, gate)
            _several_classes(task, before, list(gate.rows.values()), gate)
            _usable(gate, recipe)
    gate.name_again(task)
    rows = replay.own_rows(gate, task)
    if recipe.keys.data.splits.by == "time":
        rows = _timed(rows, gate)
    keys = recipe.keys.data.splits
    share = keys.test if recipe.keys.data.test_path is None and keys.by != "given" else 0.2
    earlier = _splits_of(workspace, previous) if previous is not None else {}
    opened = frozenset(workspace.ledger.opened_rows(recipe.name))
    if not earlier and not any(row.get("split") for row in rows):
        splits.require_enough(len(rows), share, card.losses(gate))
    placed, told, known = splits.assign(rows, task, gate.links, splits.Plan(keys.by, share, keys.validation, recipe.keys.seed, earlier, opened))
    _several_classes(task, before, rows, gate)
    signature = task.signature(rows)
    placed.update({name: "train" for name, row in gate.rows.items() if row.get(GENERAL)})
    for check in in_order(checks, "split"):
        gate.run(check, task, recipe.keys.seed, events, signature=signature, splits=placed)
    return placed, told, known, opened


def _several_classes(task: Task, before: Mapping[str, list[str]], rows: Sequence[Row], gate: Gate) -> None:
    """Raise when curation left one class of several: which one, and what happened to the rows of the others.

    Args:
        before: place of every row that could be read -> its labels then.
        rows: what is left.
    """
    left = {label for row in rows for label in splits.labels_of(task, row)} - {""}
    came = Counter(label for labels in before.values() for label in labels)
    if len(left) != 1 or len(came) < 2 or getattr(task.keys, "multi_label", False):
        return
    gone: dict[str, Counter[str]] = {}
    for one in gate.quarantine:
        for label in before.get(f"{one['file']}:{one['row']}", []):
            gone.setdefault(label, Counter())[card.general(one["reason"])] += 1
    [only] = left
    others = "; ".join(
        f"'{label}': {came[label]} rows, " + (", ".join(f"{number} {reason}" for reason, number in gone[label].most_common(3)) if label in gone else "joined with it")
        for label in sorted(came)
        if label != only
    )
    raise DataError(
        f"only the class '{only}' is left after curation ({len(rows)} rows), so there is nothing to tell apart; what became of the others: {others}",
        place="data.columns.label",
        fix="mend or add rows of the other classes, or change the checks that set them aside (`data.checks`)",
    )


def _checks(recipe: Recipe) -> list[Check]:
    return recipe.plugs("checks", recipe.keys.data.checks, recipe.task.defaults.checks)


def _split_columns(recipe: Recipe) -> dict[str, str]:
    """group, time and given -> column, as far as the recipe's way of splitting uses them; a way that lacks its column is refused."""
    keys = recipe.keys.data.splits
    found = {"group": keys.group} if keys.group is not None else {}
    if keys.by in ("time", "given"):
        found[keys.by] = getattr(keys, keys.by)
    if keys.by != "stratified" and found.get(keys.by) is None and not (keys.by == "given" and recipe.keys.data.test_path is not None):
        raise DataError(f"splitting by {keys.by} needs a column", place=f"data.splits.{keys.by}", fix=f"write `splits: {{by: {keys.by}, {keys.by}: COLUMN}}`")
    return {role: name for role, name in found.items() if name is not None}


def _code(plugs: list[Any]) -> str:
    """Digest of the code that decides what becomes of rows: this stage, the readers in core, the plugs in use with their parts and what they share with others."""
    core = Path(inspect.getfile(Gate)).parents[2] / "core"
    own = {Path(inspect.getfile(type(one))) for plug in plugs for one in (plug, *plug.parts())}
    files = {*Path(__file__).parent.glob("*.py"), *(core / f"{name}.py" for name in READERS), *own, *(shared for file in own for shared in file.parent.glob("_[!_]*.py"))}
    return hashlib.sha256("\n".join(sorted(f"{file.name} {sha256_file(file)}" for file in files)).encode()).hexdigest()


def _read(places: list[reading.Location], gate: Gate, events: Events) -> list[tuple[reading.Location, RawRecord]]:
    """Every record; those with a problem go to quarantine at once."""
    good: list[tuple[reading.Location, RawRecord]] = []
    since = time.monotonic()
    for place in places:
        for record in place.records():
            gate.read += 1
            if record.values is None:
                gate.refuse(record, READING, "", record.problem or "cannot be read", record.fix or "mend the record")
            else:
                good.append((place, record))
            if gate.read % MANY == 0 and time.monotonic() - since > 1:
                events.progress("reading rows", gate.read, gate.read)
    return good


def _tell_columns(records: list[tuple[reading.Location, RawRecord]], events: Events) -> None:
    """Say which files lack columns that others have."""
    files: dict[str, set[str]] = defaultdict(set)
    for place, record in records:
        if not place.by_role:
            files[record.place.rpartition(":")[0]].update(record.values or {})
    every = set().union(*files.values())
    for file, names in sorted(files.items()):
        if names != every:
            events.warn(f"{file} has no column " + ", ".join(f"'{name}'" for name in sorted(every - names)) + ", which other files have")


def _parse(recipe: Recipe, records: list[tuple[reading.Location, RawRecord]], chosen: columns.Columns, uses: dict[str, str], gate: Gate, more: Mapping[str, Any] | None = None) -> None:
    """Records become rows of role values; what the task cannot read is refused with its reason."""
    task = recipe.task
    by_role = {role.name: role.name for role in task.roles}
    for place, record in records:
        values = record.values or {}
        try:
            parsed = task.parse(dict(values), {r: c for r, c in by_role.items() if c in values} if place.by_role else chosen)
        except DataError as error:
            gate.refuse(record, READING, error.place or "", error.what, error.fix or "mend the record")
            continue
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            gate.refuse(record, READING, "", f"task '{task.name}' cannot read it: {type(error).__name__} {error}", "give it the shape of the other rows")
            continue
        extra = {"split": place.split, "added": place.by_role or None, **(more or {})}
        for role, name in uses.items():
            cell = values.get(name)
            if cell is None or cell != cell or str(cell).strip() == "":
                continue
            if role == "given" and place.split is None:
                extra["split"] = splits.given_split(cell)
                if extra["split"] is None:
                    gate.refuse(record, READING, name, f"'{excerpt(cell, 30)}' is not a split", "write train, validation or test")
                    break
            elif role in ("group", "time"):
                extra[role] = str(cell).strip()
        else:
            if "given" in uses and not place.by_role and extra["split"] is None:
                gate.refuse(record, READING, uses["given"], "the row does not say its split", "write train, validation or test")
                continue
            gate.admit(record, parsed, extra)


def _complete(gate: Gate, task: Any) -> None:
    """No row goes on without every required role, whatever checks the recipe chose."""
    required = [role.name for role in task.roles if role.required]
    for name, row in list(gate.rows.items()):
        missing = next((role for role in required if row.get(role) is None), None)
        if missing:
            gate.apply(READING, Finding(name, missing, f"no {missing}", "quarantine", "fill in the cell, or delete the row"))
            continue
        try:
            task.text(row), task.truth(row)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            gate.apply(READING, Finding(name, required[0], f"the task cannot use it: {type(error).__name__} {error}", "quarantine", "give it the shape of the other rows"))


def _usable(gate: Gate, recipe: Recipe) -> None:
    """What a new user most often gets wrong, said before anything is computed."""
    if not gate.rows:
        first = gate.quarantine[0]
        raise DataError(f"none of the {gate.read} row(s) can be used; the first: {first['reason']}", place=f"{first['file']}:{first['row']}", fix=first["fix"])
    target = next((role for role in recipe.task.roles if role.target and role.type in ("label", "labels")), None)
    if target is None:
        return
    counts = Counter(label for row in gate.rows.values() for label in splits.labels_of(recipe.task, row))
    column = gate.columns.get(target.name, target.name)
    if len(counts) == 1 and not isinstance(next(iter(gate.rows.values()))[target.name], list):
        raise DataError(f"every row has the same {target.name}, '{next(iter(counts))}'", place=f"column '{column}'", fix="a classifier needs rows of at least two classes; check `data.columns`")
    if len(gate.rows) >= 10 and len(counts) > 0.5 * len(gate.rows):
        some = ", ".join(f"'{excerpt(label, 30)}'" for label in list(counts)[:3])
        raise DataError(
            f"{len(counts)} different labels in {len(gate.rows)} rows ({some} ...): these look like ids or texts, not labels",
            place=f"column '{column}'",
            fix=f"name the right column: `data.columns: {{{target.name}: COLUMN}}`",
        )


def _timed(rows: list[Row], gate: Gate) -> list[Row]:
    """Rows with their moment as a number; rows without a readable time are set aside, and too many of them refuse the split. Rows that a retune
    adds have no columns but roles, so they pass without."""
    slashes = [str(row["time"]).split("/") for row in rows if str(row.get("time", "")).count("/") == 2]
    day_first = any(parts[0].strip().isdigit() and int(parts[0]) > 12 for parts in slashes)
    moments = {row["row_id"]: splits.moment(row["time"], day_first) if row.get("time") is not None else None for row in rows}
    bad = [row for row in rows if moments[row["row_id"]] is None and not row.get("split") and not row.get("added")]
    if len(bad) > 0.2 * len(rows):
        samples = ", ".join(f"'{excerpt(str(row.get('time', '')), 30)}'" for row in bad[:3])
        raise DataError(f"{len(bad)} of {len(rows)} rows have no readable time, for example {samples}", place="data.splits.time", fix="write times as 2026-01-31 or 2026-01-31T14:05")
    for row in bad:
        gate.apply(READING, Finding(row["row_id"], "time", "no readable time", "quarantine", "write the time as 2026-01-31 or 2026-01-31T14:05"))
    gone = {row["row_id"] for row in bad}
    return [{**row, "moment": moments[row["row_id"]]} for row in rows if row["row_id"] not in gone]


def _splits_of(workspace: Workspace, dataset: DatasetVersion) -> dict[str, str]:
    """row_id -> split of an earlier version. Only the ids are read: what the sealed rows say stays sealed."""
    folder = workspace.store.path(dataset.store_key)
    return {name: split for split in SPLITS for name in ids_of(folder / f"{split}.parquet")}


def _held_out(by_split: dict[str, list[Row]], gate: Gate, task: Task, checks: Sequence[Check]) -> None:
    for split, least in (("test", splits.LEAST_TEST), ("validation", 1), ("train", 2)):
        if len(by_split[split]) < least:
            counts = ", ".join(f"{name} {len(rows)}" for name, rows in by_split.items())
            what, fix = f"{len(by_split[split])} {split} row(s) are left ({counts}); at least {least} are needed", "give more rows, or change the shares in `data.splits`"
            own = replay.own_rows(gate, task)
            together = splits.largest(own, gate.links)
            if together >= splits.CROWD * len(own):
                why, fix = splits.crowded(len(own), together, sorted({one["check"] for one in gate.receipts if one["action"] == "flag" and one["related"]}), checks)
                what += f": {why}"
            raise DataError(what, place="data", fix=fix)


def _plain(row: Row) -> Row:
    """A row as it is stored: without what only the splitter needed."""
    return {name: value for name, value in row.items() if name not in ("split", "added")}


def excerpt_row(row: Row, task: Any) -> dict[str, str]:
    """A row's roles, short enough to show, personal data masked: what is shown is also written to the run's events."""
    return {role.name: excerpt(readable(map_texts(row[role.name], pii.mask))) for role in task.roles if row.get(role.name) is not None}


def _write(folder: Path, gate: Gate, by_split: dict[str, list[Row]], task: Any, facts: dict[str, Any]) -> None:
    for split, rows in by_split.items():
        write_rows(folder / f"{split}.parquet", rows, task)
    gate.write(folder)
    card.write(folder, facts)
