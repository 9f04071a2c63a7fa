"""The one gate every row passes: kept, repaired or quarantined, never anything else, and the last two with a receipt."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attune.core import pii
from attune.core.contracts import Check, CheckContext, Finding, RawRecord, Row, Task
from attune.core.errors import DataError, IntegrityError, PlugError
from attune.core.events import Events
from attune.core.records import canonical_json
from attune.core.rows import row_id
from attune.core.text import excerpt

READING = "reading"
"""Named as the check of receipts that reading itself wrote: broken records, decodings."""
MANY = 5000
"""Rows between two progress events."""
RECEIPT_FIELDS = ("file", "row", "check", "action", "column", "reason", "fix", "excerpt", "related")
QUARANTINE_FIELDS = ("file", "row", "check", "column", "reason", "fix", "raw")


@dataclass
class Gate:
    """Rows on their way, and the receipts of what happened to them."""

    columns: Mapping[str, str | list[str]] = field(default_factory=dict)
    read: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    """row_id -> row, of all rows that go on; in order of reading."""
    receipts: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    repaired: set[str] = field(default_factory=set)
    links: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of row ids that belong into one split."""
    findings: Counter[str] = field(default_factory=Counter)
    raw: dict[str, str] = field(default_factory=dict)
    _copies: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Gate:
        """A gate that has seen the same; rows and receipts are never changed in place, so they are shared."""
        found = copy.copy(self)
        vars(found).update({name: copy.copy(value) for name, value in vars(self).items()})
        return found

    def refuse(self, record: RawRecord, check: str, column: str, reason: str, fix: str) -> None:
        """Set a record aside that never became a row."""
        raw = record.raw or canonical_json(record.values)
        self._receipt(record.place, check, "quarantine", column, reason, fix, raw)
        self._set_aside(record.place, check, column, reason, fix, raw)

    def admit(self, record: RawRecord, values: dict[str, Any], more: dict[str, Any]) -> None:
        """Let a parsed record in as a row; `more` holds group, time and split where there are such."""
        try:
            plain = row_id(values)
            self._copies[plain] += 1
            name = plain if self._copies[plain] == 1 else row_id(values, self._copies[plain] - 1)
        except (UnicodeEncodeError, RecursionError, ValueError) as error:
            self.refuse(record, READING, "", f"cannot be kept: {error}", "write the value as plain text")
            return
        self.rows[name] = {"row_id": name, "place": record.place, **values, **{k: v for k, v in more.items() if v is not None}}
        self.raw[name] = record.raw
        for what in record.repaired:
            self.repaired.add(name)
            self._receipt(record.place, READING, "repair", "", what, "nothing to do", record.raw)

    def run(self, check: Check, task: Task, seed: int, events: Events, *, signature: dict[str, Any] | None = None, splits: Mapping[str, str] | None = None) -> None:
        """Let a check look at the rows and apply what it finds.

        Raises:
            DataError: the check blocks.
            PlugError: the check says something impossible.
        """

        def progress(done: int, total: int) -> None:
            events.progress(f"checking {check.name}", done, total)

        rows = list(self.rows.values())
        progress(0, len(rows))
        context = CheckContext(task, signature or {}, seed, splits, progress)
        for finding in list(check.examine(_Watched(rows, progress) if check.phase == "row" else rows, context)):
            self.apply(check.name, finding)

    def apply(self, check: str, finding: Finding) -> None:
        """Do what a finding says and write its receipt; a finding about a row that an earlier one set aside is void."""
        row = self.rows.get(finding.row_id)
        if row is None:
            if finding.row_id in self.raw:
                return
            raise PlugError(f"check '{check}' speaks of a row '{finding.row_id}' that does not exist", place="checks", fix="a check may name only ids of the rows it was given")
        if finding.action not in ("flag", "repair", "quarantine", "block"):
            raise PlugError(f"check '{check}' asks for an unknown action '{finding.action}'", place="checks", fix="flag, repair, quarantine or block")
        if finding.action == "block":
            raise DataError(finding.reason, place=row["place"], fix=finding.fix)
        value = row.get(finding.column)
        if finding.action == "repair" and (finding.column not in row or value == finding.replacement):
            raise PlugError(f"check '{check}' repairs '{finding.column}' without changing it", place=row["place"], fix="report a repair only with a different replacement for a role of the row")
        self.findings[check] += 1
        related = self.rows.get(finding.related) if finding.related else None
        known = self.columns.get(finding.column)
        column = known if isinstance(known, str) else finding.column
        self._receipt(row["place"], check, finding.action, column, finding.reason, finding.fix, value, related["place"] if related else "")
        if finding.action == "repair":
            self.rows[finding.row_id] = {**row, finding.column: finding.replacement}
            self.repaired.add(finding.row_id)
        elif finding.action == "quarantine":
            del self.rows[finding.row_id]
            self._set_aside(row["place"], check, column, finding.reason, finding.fix, self.raw[finding.row_id] or canonical_json({k: v for k, v in row.items() if k not in ("row_id", "place")}))
        elif related is not None:
            self.links.append((finding.row_id, related["row_id"]))

    def withdraw(self, name: str) -> None:
        """Let a row go as if it had never been read: one that was drawn beyond what is needed."""
        del self.rows[name]
        self.read -= 1

    def name_again(self, task: Task) -> None:
        """Give every row the id of its content as it is now, after repairs."""
        names = [role.name for role in task.roles]
        copies: Counter[str] = Counter()
        rows: dict[str, Row] = {}
        renamed: dict[str, str] = {}
        for old, row in self.rows.items():
            values = {name: row[name] for name in names if name in row}
            plain = row_id(values)
            copies[plain] += 1
            new = plain if copies[plain] == 1 else row_id(values, copies[plain] - 1)
            renamed[old] = new
            rows[new] = {**row, "row_id": new}
        self.links = [(renamed[a], renamed[b]) for a, b in self.links if a in renamed and b in renamed]
        self.repaired = {renamed.get(one, one) for one in self.repaired}
        self.raw = {renamed[old]: text for old, text in self.raw.items() if old in renamed}
        self.rows = rows

    def counts(self) -> dict[str, int]:
        """read, kept (unchanged), repaired (changed, and they go on too) and quarantined; raises IntegrityError when they do not add up."""
        repaired = sum(1 for name in self.rows if name in self.repaired)
        found = {"read": self.read, "kept": len(self.rows) - repaired, "repaired": repaired, "quarantined": len(self.quarantine)}
        if found["read"] != found["kept"] + found["repaired"] + found["quarantined"]:
            raise IntegrityError(f"rows do not add up: {found}", place="curate", fix="this is a fault in Attune or in a check that was added; no dataset was written")
        return found

    def write(self, folder: Path) -> None:
        """receipts.parquet and quarantine.parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name, rows, fields in (("receipts", self.receipts, RECEIPT_FIELDS), ("quarantine", self.quarantine, QUARANTINE_FIELDS)):
            schema = pa.schema([(f, pa.int64() if f == "row" else pa.string()) for f in fields])
            pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{name}.parquet", compression="zstd")

    def _receipt(self, place: str, check: str, action: str, column: str, reason: str, fix: str, value: Any, related: str = "") -> None:
        file, _, number = place.rpartition(":")
        shown = pii.mask(excerpt(value if value is not None else "", 400))
        body = (file, int(number), check, action, column, reason, fix, excerpt(_writable(shown)), related)
        self.receipts.append(dict(zip(RECEIPT_FIELDS, body, strict=True)))
        if check == READING:
            self.findings[READING] += 1

    def _set_aside(self, place: str, check: str, column: str, reason: str, fix: str, raw: str) -> None:
        file, _, number = place.rpartition(":")
        self.quarantine.append(dict(zip(QUARANTINE_FIELDS, (file, int(number), check, column, reason, fix, _writable(raw)), strict=True)))


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Watched(list[Row]):
    """Rows that tell how far an iteration over them is."""

    def __init__(self, rows: list[Row], progress: Callable[[int, int], None]) -> None:
        super().__init__(rows)
        self.progress = progress

    def __iter__(self) -> Iterator[Row]:
        for done, row in enumerate(super().__iter__()):
            if done and done % MANY == 0:
                self.progress(done, len(self))
            yield row


def in_order(checks: list[Check], phase: str) -> list[Check]:
    """Checks of a phase in the recipe's order, each after those it names in `after`; raises PlugError for a circle."""
    waiting = [check for check in checks if check.phase == phase]
    names = {check.name for check in waiting}
    done: list[Check] = []
    while waiting:
        ready = next((c for c in waiting if not ({*c.after} & names) - {d.name for d in done}), None)
        if ready is None:
            raise PlugError("checks wait for each other: " + ", ".join(c.name for c in waiting), place="data.checks", fix="take one of them out")
        waiting.remove(ready)
        done.append(ready)
    return done
