"""The endpoint without HTTP: which release answers, how an item becomes a row, what is remembered, what is told of itself."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attune.core.contracts import Prediction, Row
from attune.core.errors import AttuneError, Refused, did_you_mean
from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.records import Release, Scorecard, now
from attune.core.workspace import Workspace
from attune.stages.serve import limits
from attune.stages.serve.engine import Engine, Served, load, plain
from attune.stages.serve.metrics import Metrics
from attune.stages.serve.problems import Problem, problem_of
from attune.stages.serve.request_log import Entry, RequestLog

RETRY_REFUSED = 30
"""Polls between two attempts to take a release that was refused."""


def approved_release(workspace: Workspace, specialist: str) -> Release:
    """The release that a specialist's endpoint serves; raises Refused where none is approved."""
    release = workspace.ledger.approved(specialist)
    if release is None:
        known = sorted({one.specialist for one in workspace.ledger.find(Release)})
        fix = f"`attune run` its recipe, then promote the release it makes{'; ' + did_you_mean(specialist, known) if known and specialist not in known else ''}"
        raise Refused(f"'{specialist}' has no approved release", place="serve", fix=fix)
    return release


class Endpoint:
    """Serves one specialist.

    Args:
        workspace: where releases, the ledger and the request log are.
        specialist: whose approved release answers.
        keys: the recipe's `serve` section.
        events: told of swaps and of releases that were refused.
        base_folder: where a relative reference to a base model starts.
        poll_seconds: how often the ledger is asked which release is approved.
    """

    def __init__(self, workspace: Workspace, specialist: str, keys: ServeKeys, *, events: Events, base_folder: Path | None = None, poll_seconds: float = 1.0) -> None:
        self.workspace = workspace
        self.specialist = specialist
        self.keys = keys
        self.events = events
        self.base_folder = base_folder
        self.poll_seconds = poll_seconds
        self.metrics = Metrics()
        self.draining = False
        self.current: Served | None = None
        self.engine = Engine(self.metrics)
        self.log = RequestLog(workspace.ledger, specialist, keys.log, events, self.metrics)
        self._refused: tuple[str, int] | None = None
        self._unreachable = False
        self._loading = threading.Lock()
        self._end = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="attune-releases", daemon=True)

    # -------------------------------------------------------- life

    def start(self) -> None:
        """Load the approved release and start the threads; starting twice changes nothing.

        Raises:
            Refused: no release is approved.
            IntegrityError: the approved release is not what was released.
        """
        if self._poller.is_alive():
            return
        release = approved_release(self.workspace, self.specialist)
        self._take(load(self.workspace, release, self.base_folder, self.keys))
        self.engine.start()
        self.log.start()
        self._poller.start()

    def stop(self) -> None:
        """Answer and write what waits, then end the threads."""
        self.draining = True
        self._end.set()
        if self._poller.is_alive():
            self._poller.join()
        self.engine.stop()
        if self.current is not None and self.current.beside is not None:
            self.current.beside.stop()
        self.log.stop()

    def ready(self) -> bool:
        """True while requests are welcome."""
        writes = self.current.beside if self.current is not None else None
        return self.current is not None and not self.draining and self.engine.alive() and (writes is None or writes.generator.alive())

    # -------------------------------------------------------- which release

    def _poll(self) -> None:
        while not self._end.wait(self.poll_seconds):
            try:
                self.refresh()
                self._unreachable = False
            except Exception as error:  # whatever happens here, the release in service goes on answering
                if not self._unreachable:
                    self.events.warn(f"the approved release cannot be looked up: {type(error).__name__}", specialist=self.specialist)
                self._unreachable = True

    def refresh(self, *, at_once: bool = False) -> None:
        """Take the approved release when it is another one than the one in service.

        A release that fails verification or the smoke test never receives traffic: the old one goes on, a warning is given, and it is
        tried again every RETRY_REFUSED polls (or now, with `at_once`).
        """
        with self._loading:
            release = self.workspace.ledger.approved(self.specialist)
            if release is None or (self.current is not None and release.id == self.current.release.id):
                self._refused = None
                return
            if self._refused is not None and self._refused[0] == release.id and self._refused[1] > 0 and not at_once:
                self._refused = (release.id, self._refused[1] - 1)
                return
            try:
                self._take(load(self.workspace, release, self.base_folder, self.keys))
            except Exception as error:
                if self._refused is None or self._refused[0] != release.id:
                    told = error.what if isinstance(error, AttuneError) else type(error).__name__
                    self.events.warn(f"release {release.version} is approved but cannot be served: {told}", release=release.id, specialist=self.specialist)
                self._refused = (release.id, RETRY_REFUSED)
                self.metrics.refused.inc()

    def _take(self, served: Served) -> None:
        before = self.current
        if before is not None and before.beside is not None and served.beside is not None:
            for name, why in served.beside.take_over(before.beside):
                self.events.warn(f"release {name} could not move to the new release of '{self.specialist}': {why}", specialist=self.specialist)
        self.current = served
        if before is not None and before.beside is not None:
            before.beside.retire()
        self._refused = None
        self.metrics.taken(served.release)
        if before is not None:
            self.metrics.swaps.inc()
            self.events.note(f"release {served.release.version} answers now, before it release {before.release.version}", release=served.release.id, specialist=self.specialist)

    # -------------------------------------------------------- predictions

    def rows(self, served: Served, items: list[Any], field: str) -> list[Row]:
        """Items as rows of the release's task; raises a Problem that names the item and the field."""
        if not items:
            raise Problem(422, "there is no item", field=field, fix="send at least one")
        if len(items) > self.keys.max_items:
            raise Problem(422, f"{len(items)} items; at most {self.keys.max_items} are answered at once", field=field, fix="send several requests")
        task = served.specialist.task
        first = next(role for role in task.roles if not role.target)
        rows = []
        for number, item in enumerate(items):
            place = f"{field}[{number}]" if field == "inputs" else field
            payload = {first.name: item} if isinstance(item, str) else item
            if not isinstance(payload, dict):
                raise Problem(422, "an item is a text or an object", field=place, fix=f'send "..." or {{"{first.name}": "..."}}')
            limits.require_texts(payload, place, self.keys.max_text_chars)
            known = [role.name for role in task.roles if not role.target]
            try:
                row = task.request(payload)
                task.require_known(row, served.specialist.signature)
            except AttuneError as error:
                problem = problem_of(error)
                problem.field = f"{place}.{error.place}" if error.place else place
                raise problem from error
            if not any(isinstance(row.get(name), str) and row[name].strip() for name in known) and all(isinstance(row.get(name), (str, type(None))) for name in known):
                raise Problem(422, "the text is empty", field=f"{place}.{first.name}", fix="send some text")
            rows.append(row)
        return rows

    def reply(self, served: Served, rows: list[Row], answers: list[Prediction], top_k: int | None) -> tuple[dict[str, Any], Future[bool] | None]:
        """The answer to a request, and the future that says whether its drawn rows were logged (None: none was drawn).

        Predictions carry `logged` as drawn; the caller sets it to False when the future says so.
        """
        predictions, entries = [], []
        labels = frozenset(served.specialist.signature.get("labels") or ())
        for row, answer in zip(rows, answers, strict=True):
            request_id = secrets.token_hex(16)
            drawn = self.log.drawn(request_id)
            output = plain(answer.output)
            if drawn:
                entries.append(Entry(request_id, served.release.id, now(), row, output, answer.confidence, labels))
            best = sorted(answer.scores.items(), key=lambda item: -item[1])[:top_k]
            predictions.append({"request_id": request_id, "output": output, "confidence": answer.confidence, "probabilities": dict(best), "logged": drawn})
        return {"release": served.release.id, "version": served.release.version, "predictions": predictions}, self.log.submit(entries) if entries else None

    # -------------------------------------------------------- feedback and facts

    def feedback(self, request_id: str, answer: Any, comment: str, key: str | None, new_label: bool) -> dict[str, Any]:
        """Store the right answer for a logged request; `stored` is False when this key brought the same answer before, `replaced` is True
        when an earlier answer counted until now.

        Without a key every call is stored; that repeats nothing, since the newest answer to a request counts.
        """
        served = self.current
        signature = served.specialist.signature if served else {}
        labels = signature.get("labels") or ()
        if labels and not new_label:
            given = answer if signature.get("multi_label") else [answer]
            if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
                raise Problem(
                    422, f"the answer is {'a list of labels' if signature.get('multi_label') else 'a label'}", field="answer", fix="send a text, or a list of texts where several labels may hold"
                )
            unknown = [one for one in given if one not in labels]
            if unknown:
                raise Problem(422, "the answer is not one of the release's labels", field="answer", fix=did_you_mean(unknown[0], labels) + " For a class that is new, send new_label: true.")
        key = key or secrets.token_hex(16)
        answer, comment = self.log.masked(answer, labels), self.log.masked(comment)
        asked = self.workspace.ledger.asked(request_id)
        specialist = asked if asked in self.log.specialists else self.specialist
        outcome = self.workspace.ledger.add_feedback(key=key, request_id=request_id, specialist=specialist, answer=answer, comment=comment)
        return {"request_id": request_id, "key": key, "stored": outcome != "known", "replaced": outcome == "replaced"}

    def about(self) -> dict[str, Any]:
        """The release in service: id, version, verdict, labels, and the main figures of its scorecard."""
        served = self.current
        if served is None:
            raise Problem(503, "no release is loaded", headers={"Retry-After": "5"})
        release = served.release
        scorecard = self.workspace.ledger.get(release.scorecard_id)
        assert isinstance(scorecard, Scorecard)
        return {
            "specialist": self.specialist,
            "release": release.id,
            "version": release.version,
            "verdict": release.verdict,
            "bundle_digest": release.bundle_digest,
            "task": served.specialist.task.name,
            "inputs": [role.name for role in served.specialist.task.roles if not role.target],
            "labels": served.specialist.signature.get("labels"),
            "scorecard": {
                "id": scorecard.id,
                "test_rows": scorecard.test_rows,
                "confidence": scorecard.confidence,
                "tuned": {name: estimate.model_dump() for name, estimate in scorecard.results.get("tuned", {}).items() if estimate.value == estimate.value},
                "reasons": list(scorecard.reasons),
            },
        }
