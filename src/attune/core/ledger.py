"""The ledger: every fact in one SQL database, append-only, with a hash-chained audit log. SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from attune.core.errors import IntegrityError, MachineError, Refused, nearest
from attune.core.records import RECORD_TYPES, Record, Release, canonical_json, digest, now

R = TypeVar("R", bound=Record)

METADATA = sa.MetaData()
_ID = sa.String(40)
_NAME = sa.String(200)

RECORDS = sa.Table(
    "records",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", _ID, unique=True, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False, index=True),
    sa.Column("specialist", _NAME, nullable=False, index=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
EDGES = sa.Table("edges", METADATA, sa.Column("child", _ID, primary_key=True), sa.Column("parent", _ID, primary_key=True))
RESULTS = sa.Table(
    "stage_results",
    METADATA,
    sa.Column("fingerprint", sa.String(64), primary_key=True),
    sa.Column("stage", sa.String(20), nullable=False),
    sa.Column("record_id", _ID, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)
PROMOTIONS = sa.Table(
    "promotions",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("specialist", _NAME, nullable=False, index=True),
    sa.Column("release_id", _ID, nullable=False),
    sa.Column("action", sa.String(10), nullable=False),
    sa.Column("actor", _NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("forced", sa.Boolean, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
TEST_USES = sa.Table(
    "test_uses",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("dataset_id", _ID, nullable=False, index=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
TEST_ROW_USES = sa.Table(
    "test_row_uses",
    METADATA,
    sa.Column("specialist", _NAME, primary_key=True),
    sa.Column("row_id", _ID, primary_key=True),
    sa.Column("uses", sa.Integer, nullable=False),
)
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("actor", _NAME, nullable=False),
    sa.Column("action", sa.String(60), nullable=False),
    sa.Column("subject", _NAME, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", _ID, unique=True, nullable=False),
    sa.Column("specialist", _NAME, nullable=False, index=True),
    sa.Column("release_id", _ID, nullable=False),
    sa.Column("at", sa.String(40), nullable=False, index=True),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("confidence", sa.Float, nullable=True),
)
FEEDBACK = sa.Table(
    "feedback",
    METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(100), unique=True, nullable=False),
    sa.Column("request_id", _ID, nullable=False, index=True),
    sa.Column("specialist", _NAME, nullable=False, index=True),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)

GENESIS = "0" * 64


class Ledger:
    """Facts of a workspace. Every writing method commits before it returns, so what was acknowledged is durable."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.engine = sa.create_engine(url, future=True, pool_pre_ping=True, **({"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}))
            if self.engine.dialect.name == "sqlite":
                _tune_sqlite(self.engine)
            with self._begin() as connection:
                METADATA.create_all(connection)
        except sa.exc.ArgumentError as error:
            raise MachineError("the ledger's URL cannot be read", place="ledger", fix="write it like postgresql+psycopg://user:password@host/database, or leave it out for SQLite") from error
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise MachineError(
                f"cannot open the ledger: {error}", place=sa.make_url(url).render_as_string(hide_password=True), fix="check the URL, its driver, the server and the permissions"
            ) from error

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its start, on both databases."""
        with self._reached(), self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                        connection.exec_driver_sql("ROLLBACK")
                    raise
            else:
                with connection.begin():
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(4711)"))
                    yield connection

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns the database's own errors into one that says which ledger and what to do."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            place = sa.make_url(self.url).render_as_string(hide_password=True)
            fix = (
                "give back the permission to write that file, or name another folder: --workspace FOLDER"
                if "readonly" in str(error.orig)
                else "check that the database runs, has disk space and is not locked, then run again"
            )
            raise MachineError(f"the ledger did not take part: {error.orig}", place=place, fix=fix) from error

    def rows(self, query: sa.Select[Any] | sa.TextClause) -> list[sa.Row[Any]]:
        """The rows of a query that only reads, for whoever examines the ledger itself."""
        return self._all(query)

    def _all(self, query: sa.Select[Any] | sa.TextClause) -> list[sa.Row[Any]]:
        with self._reached(), self.engine.connect() as connection:
            rows = list(connection.execute(query))
            if self.engine.dialect.name != "sqlite":
                connection.rollback()
            return rows

    # -------------------------------------------------------- records

    def add(self, record: R, *, actor: str = "attune", fingerprint: str | None = None, stage: str = "") -> R:
        """Append a record with its edges, its stage result and an audit event, in one transaction. Adding it again changes nothing."""
        with self._begin() as connection:
            known = connection.execute(sa.select(RECORDS.c.body).where(RECORDS.c.id == record.id)).first()
            if known is not None:
                stored = type(record).model_validate_json(known.body)
            else:
                stored = record
                if isinstance(record, Release):
                    self._require_free_version(connection, record)
                connection.execute(RECORDS.insert().values(id=record.id, kind=record.kind, specialist=record.specialist, created_at=record.created_at, body=record.model_dump_json()))
                for parent in dict.fromkeys(record.parents):
                    connection.execute(EDGES.insert().values(child=record.id, parent=parent))
                self._audit(connection, actor, f"{record.kind}.add", record.id, {"parents": list(record.parents)})
            if fingerprint:  # the newest result counts: an older one may have lost its files
                connection.execute(RESULTS.delete().where(RESULTS.c.fingerprint == fingerprint))
                connection.execute(RESULTS.insert().values(fingerprint=fingerprint, stage=stage, record_id=record.id, created_at=now()))
        return stored

    def _require_free_version(self, connection: sa.Connection, release: Release) -> None:
        known = connection.execute(sa.select(RECORDS.c.id, RECORDS.c.body).where(RECORDS.c.kind == release.kind, RECORDS.c.specialist == release.specialist))
        taken = [row.id for row in known if json.loads(row.body)["version"] == release.version]
        if taken:
            raise Refused(f"'{release.specialist}' has a version {release.version} already: {taken[0]}", place="register", fix="another process registered it meanwhile; register again")

    def get(self, record_id: str) -> Record:
        """The record of an id (or of a unique beginning of one)."""
        query = sa.select(RECORDS.c.id, RECORDS.c.kind, RECORDS.c.body).where(RECORDS.c.id.startswith(record_id, autoescape=True)).limit(3)
        rows = self._all(query)
        if not rows:
            near = nearest(record_id, [r.id for r in self._all(sa.select(RECORDS.c.id))])
            raise IntegrityError(f"no record '{record_id}'", place="ledger", fix=f"did you mean '{near}'?" if near else "`attune show` lists what there is")
        if len(rows) > 1:
            raise IntegrityError(f"'{record_id}' is the beginning of several ids", place="ledger", fix="give more of the id")
        return _whole(RECORD_TYPES.get(rows[0].kind, Record), rows[0].id, rows[0].body)

    def find(self, record_type: type[R], specialist: str | None = None) -> list[R]:
        """Records of a type, oldest first."""
        query = sa.select(RECORDS.c.id, RECORDS.c.body).where(RECORDS.c.kind == record_type.kind).order_by(RECORDS.c.sequence)
        if specialist is not None:
            query = query.where(RECORDS.c.specialist == specialist)
        return [_whole(record_type, row.id, row.body) for row in self._all(query)]

    def result(self, fingerprint: str) -> Record | None:
        """The record that a stage with this fingerprint made before, or None."""
        rows = self._all(sa.select(RESULTS.c.record_id).where(RESULTS.c.fingerprint == fingerprint))
        return self.get(rows[0].record_id) if rows else None

    def lineage(self, record_id: str) -> list[Record]:
        """The record and everything it was made from, nearest first."""
        seen: dict[str, Record] = {}
        queue = [self.get(record_id).id]
        while queue:
            current = queue.pop(0)
            if current in seen:
                continue
            seen[current] = self.get(current)
            queue += [row.parent for row in self._all(sa.select(EDGES.c.parent).where(EDGES.c.child == current).order_by(EDGES.c.parent))]
        return list(seen.values())

    # -------------------------------------------------------- promotion

    def promote(self, release: Release, *, action: str, actor: str, reason: str, forced: bool) -> None:
        """Append a promotion (or rollback) event: from now on this release is the specialist's approved one."""
        with self._begin() as connection:
            at = now()
            connection.execute(PROMOTIONS.insert().values(specialist=release.specialist, release_id=release.id, action=action, actor=actor, reason=reason, forced=forced, at=at))
            facts = {"reason": reason, "forced": forced, "verdict": release.verdict, "specialist": release.specialist, "at": at}
            self._audit(connection, actor, f"release.{action}", release.id, facts)

    def promotions(self, specialist: str) -> list[dict[str, Any]]:
        """Promotion events of a specialist, oldest first."""
        return [dict(row._mapping) for row in self._all(sa.select(PROMOTIONS).where(PROMOTIONS.c.specialist == specialist).order_by(PROMOTIONS.c.sequence))]

    def approved(self, specialist: str) -> Release | None:
        """The release that is approved now, or None."""
        events = self.promotions(specialist)
        if not events:
            return None
        release = self.get(events[-1]["release_id"])
        assert isinstance(release, Release)
        return release

    def verify_promotions(self) -> int:
        """Compare promotions with the audit log, which tells of each, and return how many there are. Check the log itself with `verify_audit`.

        Raises:
            IntegrityError: a promotion was written or changed behind the log's back, taken away, or moved.
        """
        known = ("specialist", "release_id", "action", "actor", "reason", "forced", "at")
        there = [dict(row._mapping) for row in self._all(sa.select(PROMOTIONS).order_by(PROMOTIONS.c.sequence))]
        told = []
        for row in self._all(sa.select(AUDIT).where(AUDIT.c.action.in_(("release.promote", "release.rollback"))).order_by(AUDIT.c.sequence)):
            facts = json.loads(row.facts)
            told.append(
                {"release_id": row.subject, "action": row.action.removeprefix("release."), "actor": row.actor, **{name: facts[name] for name in known if name in facts}, "sequence": row.sequence}
            )
        wrong = []
        left = list(told)
        for promotion in there:  # in order, so that a row that was moved fits no event either
            fits = next((place for place, event in enumerate(left) if all(promotion[name] == event[name] for name in known if name in event)), None)
            if fits is None:
                wrong.append(f"promotion {promotion['sequence']} ({promotion['action']} of '{promotion['release_id']}' by {promotion['actor']}) has no audit event that says the same")
                continue
            wrong += [f"audit event {event['sequence']} ({event['action']} of '{event['release_id']}' by {event['actor']}) has no promotion" for event in left[:fits]]
            left = left[fits + 1 :]
        wrong += [f"audit event {event['sequence']} ({event['action']} of '{event['release_id']}' by {event['actor']}) has no promotion" for event in left]
        if wrong:
            raise IntegrityError(
                "; ".join(wrong), place="ledger promotions", fix="promotions were changed after they were written: what is served may not be what a person approved; restore the ledger from a backup"
            )
        return len(there)

    # -------------------------------------------------------- sealed test rows

    def use_test_rows(self, specialist: str, dataset_id: str, row_ids: Iterable[str], purpose: str) -> int:
        """Count one opening of sealed test rows, row by row: a row is the same in every dataset version that holds it.

        Returns:
            The largest number of times that any of these rows has been opened for this specialist, this time included.
        """
        ids = sorted(set(row_ids))
        known = {"specialist": specialist, "ids": json.dumps(ids)}
        # One statement for any number of rows: the ids travel as one JSON text, which both databases can read as a table.
        given = "json_each(:ids)" if self.engine.dialect.name == "sqlite" else "json_array_elements_text(CAST(:ids AS json)) AS given(value)"
        with self._begin() as connection:
            connection.execute(TEST_USES.insert().values(dataset_id=dataset_id, purpose=purpose, at=now()))
            self._audit(connection, "attune", "test_rows.open", dataset_id, {"purpose": purpose, "specialist": specialist, "rows": len(ids)})
            connection.execute(
                sa.text(
                    f"INSERT INTO test_row_uses (specialist, row_id, uses) SELECT :specialist, value, 1 FROM {given} WHERE true "
                    "ON CONFLICT (specialist, row_id) DO UPDATE SET uses = test_row_uses.uses + 1"
                ),
                known,
            )
            most = connection.execute(sa.text(f"SELECT max(uses) FROM test_row_uses WHERE specialist = :specialist AND row_id IN (SELECT value FROM {given})"), known).scalar()
        return int(most or 0)

    def opened_rows(self, specialist: str) -> dict[str, int]:
        """row_id -> how often it was opened, for every test row that a verdict on this specialist has looked at."""
        return {row.row_id: row.uses for row in self._all(sa.select(TEST_ROW_USES.c.row_id, TEST_ROW_USES.c.uses).where(TEST_ROW_USES.c.specialist == specialist))}

    # -------------------------------------------------------- requests and feedback

    def log_requests(self, rows: list[dict[str, Any]]) -> None:
        """Append served requests: id, specialist, release_id, at, input (masked JSON), output (JSON), confidence."""
        if rows:
            with self._begin() as connection:
                connection.execute(REQUESTS.insert(), rows)

    def add_feedback(self, *, key: str, request_id: str, specialist: str, answer: Any, comment: str = "") -> Literal["first", "replaced", "known"]:
        """Append the right answer for a served request.

        Returns:
            first; replaced: an earlier answer counted until now; known: this idempotency key brought the same answer before, nothing is stored.
        """
        text = canonical_json(answer)
        with self._begin() as connection:
            if connection.execute(sa.select(REQUESTS.c.id).where(REQUESTS.c.id == request_id, REQUESTS.c.specialist == specialist)).first() is None:
                raise Refused(
                    f"no logged request '{request_id}' of '{specialist}'",
                    place="request_id",
                    fix="use a request_id that /v1/predict returned with logged: true; older ones may have passed their retention",
                )
            known = connection.execute(sa.select(FEEDBACK.c.request_id, FEEDBACK.c.answer).where(FEEDBACK.c.key == key)).first()
            if known is not None:
                if (known.request_id, known.answer) != (request_id, text):
                    raise Refused(f"idempotency key '{key}' was used with another answer", place="key", fix="use a new key for a new answer")
                return "known"
            earlier = connection.execute(sa.select(FEEDBACK.c.key).where(FEEDBACK.c.request_id == request_id, FEEDBACK.c.specialist == specialist)).first()
            connection.execute(FEEDBACK.insert().values(key=key, request_id=request_id, specialist=specialist, answer=text, comment=comment, at=now()))
        return "first" if earlier is None else "replaced"

    def requests(self, specialist: str, begin: str | None = None, end: str | None = None) -> list[dict[str, Any]]:
        """Logged requests in time order with `answer` (newest feedback, decoded) or None; begin inclusive, end exclusive (ISO, UTC)."""
        query = sa.select(REQUESTS).where(REQUESTS.c.specialist == specialist).order_by(REQUESTS.c.at, REQUESTS.c.sequence)
        if begin is not None:
            query = query.where(REQUESTS.c.at >= begin)
        if end is not None:
            query = query.where(REQUESTS.c.at < end)
        answers = {row.request_id: row.answer for row in self._all(sa.select(FEEDBACK.c.request_id, FEEDBACK.c.answer).where(FEEDBACK.c.specialist == specialist).order_by(FEEDBACK.c.sequence))}
        found = []
        for row in self._all(query):
            item = dict(row._mapping)
            item["input"] = json.loads(item["input"])
            item["output"] = json.loads(item["output"])
            item["answer"] = json.loads(answers[item["id"]]) if item["id"] in answers else None
            found.append(item)
        return found

    def asked(self, request_id: str) -> str | None:
        """The specialist of a logged request; None where none is logged."""
        rows = self._all(sa.select(REQUESTS.c.specialist).where(REQUESTS.c.id == request_id))
        return str(rows[0].specialist) if rows else None

    def forget_requests(self, specialist: str, before: str) -> int:
        """Delete requests older than `before` and their feedback (retention); returns how many requests went."""
        with self._begin() as connection:
            old = sa.select(REQUESTS.c.id).where(REQUESTS.c.specialist == specialist, REQUESTS.c.at < before)
            connection.execute(FEEDBACK.delete().where(FEEDBACK.c.request_id.in_(old)))
            gone = connection.execute(REQUESTS.delete().where(REQUESTS.c.specialist == specialist, REQUESTS.c.at < before)).rowcount
            if gone:
                self._audit(connection, "attune", "requests.forget", specialist, {"before": before, "rows": gone})
        return int(gone)

    # -------------------------------------------------------- audit

    def audit(self, actor: str, action: str, subject: str, facts: dict[str, Any] | None = None) -> None:
        """Append an audit event of its own."""
        with self._begin() as connection:
            self._audit(connection, actor, action, subject, facts or {})

    def _audit(self, connection: sa.Connection, actor: str, action: str, subject: str, facts: dict[str, Any]) -> None:
        last = connection.execute(sa.select(AUDIT.c.sequence, AUDIT.c.hash).order_by(AUDIT.c.sequence.desc()).limit(1)).first()
        sequence, previous = (last.sequence + 1, last.hash) if last else (1, GENESIS)
        row = {"sequence": sequence, "at": now(), "actor": actor, "action": action, "subject": subject, "facts": canonical_json(facts), "previous": previous}
        connection.execute(AUDIT.insert().values(**row, hash=digest(row)))

    def audit_log(self) -> list[dict[str, Any]]:
        """Every audit event, oldest first."""
        return [dict(row._mapping) for row in self._all(sa.select(AUDIT).order_by(AUDIT.c.sequence))]

    def verify_audit(self, head: str | None = None) -> str:
        """Check the chain from its start and return the head hash; raises IntegrityError at the first event that does not fit.

        Give a `head` noted earlier to notice a log cut off at the end: it must still be in the chain.
        """
        previous, seen = GENESIS, {GENESIS}
        for number, row in enumerate(self.audit_log(), start=1):
            body = {k: v for k, v in row.items() if k != "hash"}
            if row["sequence"] != number or row["previous"] != previous or digest(body) != row["hash"]:
                raise IntegrityError(f"audit event {row['sequence']} does not fit the chain", place="ledger audit", fix="the log was changed after it was written; compare with a backup")
            previous = row["hash"]
            seen.add(previous)
        if head is not None and head not in seen:
            raise IntegrityError("the noted head is not in the audit chain any more", place="ledger audit", fix="events were removed; compare with a backup")
        return previous


def _whole(record_type: type[R], record_id: str, body: str) -> R:
    """A record from its stored text; its id is the hash of its content, so a changed one is noticed."""
    try:
        record = record_type.model_validate_json(body)
    except ValueError:
        record = None
    if record is None or record.id != record_id:
        raise IntegrityError(f"record '{record_id}' is not what was written", place="ledger", fix="the ledger was changed after it was written; restore it from a backup")
    return record


def _tune_sqlite(engine: sa.Engine) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()
