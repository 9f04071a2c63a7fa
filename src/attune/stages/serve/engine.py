"""The model behind the endpoint: one worker thread that answers what waits in one batch, and one reference that a swap replaces."""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attune.core.contracts import Prediction, Row
from attune.core.errors import IntegrityError, MachineError
from attune.core.recipe import ServeKeys
from attune.core.records import Release
from attune.core.releases import open_release
from attune.core.specialist import ROWS_AT_ONCE, Specialist
from attune.core.workspace import Workspace
from attune.stages.serve.beside import Beside
from attune.stages.serve.metrics import Metrics


@dataclass(frozen=True)
class Served:
    """A release ready to answer. A request reads the reference once and is answered by what it read, whatever is swapped meanwhile."""

    release: Release
    specialist: Specialist
    beside: Beside | None = None
    """Where the release writes texts: the generator that decodes for it, and the adapters of other releases on it."""


@dataclass
class Job:
    """Rows of one request that wait for the model."""

    served: Served
    rows: list[Row]
    answer: Future[list[Prediction]] = field(default_factory=Future)


def load(workspace: Workspace, release: Release, base_folder: Path | None, keys: ServeKeys | None = None) -> Served:
    """Open a release, every hash checked, and make it answer once before it may receive traffic; raises an AttuneError when it cannot."""
    specialist = open_release(workspace, release, base_folder=base_folder)
    asked = [role for role in specialist.task.roles if not role.target and role.required]
    trial: Row = {asked[0].name: {}} if asked[0].type == "features" else specialist.task.request({role.name: "Is this an answer?" for role in asked})
    [answer] = specialist.predict([trial])
    numbers = [*answer.scores.values(), *([answer.confidence] if answer.confidence is not None else [])]
    numbers += [x for x in (answer.output if isinstance(answer.output, list) else [answer.output]) if isinstance(x, float)]
    if not all(math.isfinite(x) for x in numbers):
        raise IntegrityError(f"release '{release.id}' answers with what is not a number", place="smoke test", fix="roll back, and look at the checkpoint's weights")
    keys = keys or ServeKeys()
    beside = Beside.of(workspace, release, specialist, running=keys.max_running, waiting=keys.max_waiting, most=keys.max_adapters)
    return Served(release, specialist, beside)


class Engine:
    """Runs the model in one thread. What waits together is answered together; a batch never mixes releases."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="attune-model", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer everything that waits, then end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def alive(self) -> bool:
        """True while the worker thread runs."""
        return self._thread.is_alive()

    def submit(self, served: Served, rows: list[Row]) -> Future[list[Prediction]]:
        """Ask a release; the future gives one answer per row, in order."""
        job = Job(served, rows)
        with self._changed:
            if self._stopping:
                raise MachineError("the endpoint is stopping", fix="ask another instance")
            self._waiting.append(job)
            self._changed.notify()
        return job.answer

    def _take(self) -> list[Job]:
        """The next batch: what waits for the same release, up to a model's batch; empty when stopped and nothing waits."""
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            jobs: list[Job] = []
            rows = 0
            while self._waiting and (not jobs or (self._waiting[0].served is jobs[0].served and rows + len(self._waiting[0].rows) <= ROWS_AT_ONCE)):
                jobs.append(self._waiting.popleft())
                rows += len(jobs[-1].rows)
            return jobs

    def _work(self) -> None:
        while jobs := self._take():
            wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if not wanted:
                continue
            try:
                self._answer(wanted)
            except Exception as error:
                if len(wanted) == 1:
                    wanted[0].answer.set_exception(error)
                else:  # one row may be at fault: ask again one request at a time, so that only its own request fails
                    for job in wanted:
                        self._alone(job)

    def _alone(self, job: Job) -> None:
        try:
            self._answer([job])
        except Exception as error:
            job.answer.set_exception(error)

    def _answer(self, jobs: list[Job]) -> None:
        rows = [row for job in jobs for row in job.rows]
        answers = jobs[0].served.specialist.predict(rows)
        self.metrics.rows.inc(len(rows))
        self.metrics.batches.inc()
        begin = 0
        for job in jobs:
            job.answer.set_result(answers[begin : begin + len(job.rows)])
            begin += len(job.rows)


def plain(value: Any) -> Any:
    """An answer as JSON values: arrays become lists."""
    return value.tolist() if hasattr(value, "tolist") else value
