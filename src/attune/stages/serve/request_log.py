"""The request log: what was asked and answered, sampled, masked and written by one thread in group commits.

`logged: true` in an answer is a promise: the row was committed before the answer left, so feedback finds it and a crash cannot lose it.
The answer waits for that commit no longer than PATIENCE; when it takes longer the row is withdrawn where it still can be, and the answer
says `logged: false`. So the database can delay an answer by a quarter of a second, and can never stop it.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from attune.core.events import Events
from attune.core.ledger import Ledger
from attune.core.recipe import LogKeys
from attune.core.records import Release, canonical_json
from attune.stages.serve.metrics import Metrics

PATIENCE = 0.25
"""Seconds that an answer waits for its log entry to be committed."""
DAY = 24 * 3600.0
LOADED = "adapter.load"
"""Audit event: a release of another specialist answers at this endpoint too."""
MOST_WAITING = 1000
AT_ONCE = 64


@dataclass(frozen=True)
class Entry:
    """One answered row before masking."""

    id: str
    release_id: str
    at: str
    input: dict[str, Any]
    output: Any
    confidence: float | None
    labels: frozenset[str] = frozenset()
    specialist: str | None = None
    """Whose request it was, where the release of another specialist answered."""


class RequestLog:
    """Writes an endpoint's entries to the ledger, and deletes them when their time is over: those of its own specialist, and of others whose releases
    were loaded beside it. Where several endpoints log for one specialist, the shortest retention holds."""

    def __init__(self, ledger: Ledger, specialist: str, keys: LogKeys, events: Events, metrics: Metrics) -> None:
        self.ledger = ledger
        self.specialist = specialist
        self.specialists = {specialist}
        """Whose requests are logged here."""
        self.sample, self.mask_pii, self.retention_days = keys.sample, keys.mask_pii, keys.retention_days
        self.events = events
        self.metrics = metrics
        self._waiting: queue.Queue[tuple[list[Entry], Future[bool]] | None] = queue.Queue(MOST_WAITING)
        self._forgotten_at = -DAY
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="attune-request-log", daemon=True)

    def start(self) -> None:
        """Begin to write; the retention is applied first, also to the specialists that answered here before."""
        before = (json.loads(event["facts"]) for event in self.ledger.audit_log() if event["action"] == LOADED)
        self.specialists |= {facts["specialist"] for facts in before if facts["endpoint"] == self.specialist}
        self._thread.start()

    def also(self, release: Release) -> None:
        """Log for another specialist too, from now on and after every start."""
        if release.specialist not in self.specialists:
            self.ledger.audit("attune", LOADED, release.id, {"endpoint": self.specialist, "specialist": release.specialist})
            self.specialists.add(release.specialist)

    def stop(self) -> None:
        """Write everything that waits, then end."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def drawn(self, request_id: str) -> bool:
        """True for the share of requests that is logged; the same id always gives the same answer."""
        draw = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") / 2**64
        return draw < self.sample

    def submit(self, entries: list[Entry]) -> Future[bool]:
        """Hand over entries; the future says whether they were committed. Cancelling it withdraws them unless they are being written."""
        done: Future[bool] = Future()
        try:
            self._waiting.put_nowait((entries, done))
        except queue.Full:
            done.set_result(False)
        return done

    def _work(self) -> None:
        while True:
            self._forget()
            try:
                first = self._waiting.get(timeout=60)
            except queue.Empty:
                continue
            batch = [first]
            while first is not None and len(batch) < AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._write([one for one in batch if one is not None and one[1].set_running_or_notify_cancel()])
            if None in batch:
                return

    def _write(self, batch: list[tuple[list[Entry], Future[bool]]]) -> None:
        if not batch:
            return
        try:
            self.ledger.log_requests([self._row(entry) for entries, _ in batch for entry in entries])
            written, self._broken = True, False
        except Exception as error:
            written = False
            if not self._broken:
                self.events.warn(f"requests could not be logged: {type(error).__name__}", specialist=self.specialist)
            self._broken = True
        self.metrics.logged.inc(sum(len(entries) for entries, _ in batch) if written else 0)
        for _, done in batch:
            done.set_result(written)

    def _row(self, entry: Entry) -> dict[str, Any]:
        return {
            "id": entry.id,
            "specialist": entry.specialist or self.specialist,
            "release_id": entry.release_id,
            "at": entry.at,
            "input": canonical_json(self.masked(entry.input)),
            "output": canonical_json(self._kept(entry)),
            "confidence": entry.confidence,
        }

    def _kept(self, entry: Entry) -> Any:
        """The output as it is stored: vectors not at all (they can be made again)."""
        output = entry.output
        return None if isinstance(output, list) and output and all(isinstance(x, float) for x in output) else self.masked(output, entry.labels)

    def masked(self, value: Any, labels: Collection[str] = ()) -> Any:
        """A value as it may be stored: texts masked where the recipe says so, labels as they are."""
        if not self.mask_pii:
            return value
        if isinstance(value, str):
            from attune.core.pii import mask

            return value if value in labels else mask(value)
        if isinstance(value, dict):
            return {name: self.masked(inner, labels) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.masked(inner, labels) for inner in value]
        return value

    def _forget(self) -> None:
        """Delete what is older than the retention, at the start and then once a day."""
        if time.monotonic() - self._forgotten_at < DAY:
            return
        self._forgotten_at = time.monotonic()
        before = (datetime.now(UTC) - timedelta(days=self.retention_days)).isoformat(timespec="microseconds")
        try:
            gone = sum(self.ledger.forget_requests(name, before) for name in sorted(self.specialists))
        except Exception as error:
            self.events.warn(f"old requests could not be deleted: {type(error).__name__}", specialist=self.specialist)
            return
        if gone:
            self.events.note(f"{gone} requests older than {self.retention_days} days were deleted", specialist=self.specialist)
