"""Whether a workspace is still what was written: its database, its records and what they refer to, its approvals, its store. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from attune.core.errors import AttuneError, IntegrityError
from attune.core.events import Events
from attune.core.ledger import EDGES, PROMOTIONS, RECORDS, RESULTS
from attune.core.records import RECORD_TYPES, Record, Release
from attune.core.releases import release_folder
from attune.core.workspace import Workspace

BACKUP = "the ledger was changed by something other than Attune, or the disk lost something; restore it from a backup"
AGAIN = "restore the folder from a backup; or run the recipe again, which makes anew what is damaged"


@dataclass(frozen=True)
class Look:
    """One thing that was looked at."""

    name: str
    said: str
    """What was found when nothing is wrong."""
    faults: tuple[str, ...] = ()
    fix: str = ""
    notes: tuple[str, ...] = ()
    """Worth knowing, and not wrong."""


def examine(workspace: Workspace, events: Events, head: str | None = None) -> Iterator[Look]:
    """Look at everything; a look that itself fails is a fault of its own and does not end the others.

    Args:
        workspace: which.
        events: hears progress.
        head: a head of the audit log noted earlier, which must still be in it.
    """
    looks: dict[str, Callable[[], Look]] = {
        "database": lambda: _database(workspace),
        "audit log": lambda: _audit(workspace, head),
        "approvals": lambda: Look("approvals", f"{workspace.ledger.verify_promotions()} promotions and rollbacks, each with its audit event"),
        "records": lambda: _records(workspace, events),
        "approved releases": lambda: _approved(workspace, events),
        "store": lambda: _store(workspace),
    }
    for name, look in looks.items():
        try:
            yield look()
        except AttuneError as error:
            yield Look(name, "", (f"{error.place}: {error.what}" if error.place else error.what,), error.fix or BACKUP)


def _database(workspace: Workspace) -> Look:
    """SQLite checks its own pages; PostgreSQL has to be asked with the tools of its own."""
    if workspace.ledger.engine.dialect.name != "sqlite":
        return Look("database", f"{workspace.ledger.engine.dialect.name} answers")
    said = [str(row[0]) for row in workspace.ledger.rows(sa.text("PRAGMA integrity_check"))]
    return Look("database", "sqlite finds every page whole") if said == ["ok"] else Look("database", "", tuple(line for text in said for line in text.splitlines()), BACKUP)


def _audit(workspace: Workspace, head: str | None) -> Look:
    found = workspace.ledger.verify_audit(head)
    number = len(workspace.ledger.audit_log())
    return Look("audit log", f"{number} events, every link of the chain fits" + ("; the noted head is in it" if head else "") + f"; head {found}")


def _records(workspace: Workspace, events: Events) -> Look:
    """Every record is the hash of its own content, was announced in the audit log, and refers to what is there."""
    rows = workspace.ledger.rows(sa.select(RECORDS).order_by(RECORDS.c.sequence))
    faults: list[str] = []
    records: dict[str, Record] = {}
    for row in events.track(rows, "loading records", len(rows)):
        try:
            record = RECORD_TYPES[row.kind].model_validate_json(row.body)
        except (KeyError, ValueError) as error:
            faults.append(f"record '{row.id}' cannot be read: {str(error).splitlines()[0]}")
            continue
        if (record.id, record.specialist, record.created_at) != (row.id, row.specialist, row.created_at):
            faults.append(f"record '{row.id}' is not what was written")
        records[row.id] = record
    known = {row.id for row in rows}
    added = {event["subject"]: event["action"] for event in workspace.ledger.audit_log() if event["action"].endswith(".add")}
    faults += [f"record '{name}' is gone: the audit log says that it was added" for name in added if name not in known]
    faults += [f"record '{row.id}' was never announced in the audit log" for row in rows if added.get(row.id) != f"{row.kind}.add"]
    edges: dict[str, set[str]] = {}
    for edge in workspace.ledger.rows(sa.select(EDGES)):
        edges.setdefault(edge.child, set()).add(edge.parent)
    faults += [f"lineage speaks of '{child}', which is no record" for child in edges if child not in known]
    for name, record in records.items():
        if edges.get(name, set()) != set(record.parents):
            faults.append(f"lineage of '{name}' is not what the record says: {', '.join(sorted(edges.get(name, set()) ^ set(record.parents)))}")
        faults += [f"record '{name}' refers to '{other}', which is no record" for other in sorted({*record.parents, *_references(record)} - known)]
    results = workspace.ledger.rows(sa.select(RESULTS))
    faults += [f"stage result '{row.stage}' ({row.fingerprint[:12]}) points to '{row.record_id}', which is no record" for row in results if row.record_id not in known]
    return Look("records", f"{len(rows)} records and {len(results)} stage results, each as it was written and with all that it refers to", tuple(faults), BACKUP)


def _references(record: Record) -> Iterator[str]:
    """Ids of other records in a record's own fields, which by their names end in _id or _ids."""
    for name, value in record:
        if name.endswith("_id") and isinstance(value, str):
            yield value
        elif name.endswith("_ids"):
            yield from value


def _approved(workspace: Workspace, events: Events) -> Look:
    """Releases that were ever approved, and the records in their lineage: every file in their folders is what was committed."""
    ledger = workspace.ledger
    wanted: dict[str, Record] = {}
    faults: list[str] = []
    names = list(dict.fromkeys(row.release_id for row in workspace.ledger.rows(sa.select(PROMOTIONS.c.release_id).order_by(PROMOTIONS.c.sequence))))
    for name in names:
        try:
            wanted |= {record.id: record for record in ledger.lineage(name)}
        except IntegrityError as error:
            faults.append(f"lineage of '{name}': {error.what}")
    for record in events.track(wanted.values(), "verifying what was approved", len(wanted)):
        try:
            if isinstance(record, Release):
                release_folder(workspace, record)
            else:
                for key in _keys(record):
                    workspace.store.path(key)
        except IntegrityError as error:
            faults.append(f"'{record.id}': {error.place}: {error.what}")
    return Look("approved releases", f"{len(names)} releases and the {len(wanted) - len(names)} records behind them: every file is what was committed" if names else "none yet", tuple(faults), AGAIN)


def _keys(record: Record) -> Iterable[str]:
    return [value for name, value in record if name in ("store_key", "rows_key") and value]


def _store(workspace: Workspace) -> Look:
    """Folders in the store against the records that name them."""
    known = {key for kind in RECORD_TYPES.values() for record in workspace.ledger.find(kind) for key in _keys(record)}
    there = {path.relative_to(workspace.store.root).as_posix(): path for path in sorted(workspace.store.root.glob("*/*")) if path.is_dir()}
    missing = sorted(known - set(there))
    strange = sorted(set(there) - known)
    notes = [f"no record knows the folder '{name}' of the store: a stage that failed or was stopped may have left it" for name in strange]
    notes += [f"the folder '{key}' of a record is gone: its stage will run again when it is needed" for key in missing]
    return Look(
        "store",
        f"{len(there)} folders, each known to a record",
        notes=tuple(notes),
        fix="what no record knows may be deleted while nothing runs" if strange else "run its recipe again, or restore it from a backup",
    )
