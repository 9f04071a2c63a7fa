"""Examining the approved release's requests, window by window: data for the detectors, one calibrated test each, records to hand back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from attune.core import catalog, randomness
from attune.core.contracts import Detector, Task, WindowData, require_fit
from attune.core.errors import PlugError, Refused
from attune.core.events import Events
from attune.core.recipe import WatchKeys
from attune.core.records import Release, RetuneRequest, Window
from attune.core.releases import release_folder
from attune.core.specialist import Specialist, open_bundle
from attune.core.workspace import Workspace
from attune.core.yaml_reader import read_yaml_file
from attune.stages.watch.calibration import permutation_test, resamples_needed, significance
from attune.stages.watch.material import masked_reference, read_reference, task_of, window_data
from attune.stages.watch.retune import request_retune
from attune.stages.watch.windows import Period, cut

NOT_ENOUGH = "not enough data"


def run(
    workspace: Workspace, specialist: str, keys: WatchKeys | None, events: Events, *, now: datetime | None = None, include_open: bool = False, base_folder: Path | None = None
) -> tuple[list[Window], RetuneRequest | None]:
    """Examine every window that is due. The records are handed back, not written: the caller adds them to the ledger, windows first.

    Args:
        workspace: ledger (requests, feedback, windows so far) and store (the release).
        specialist: its name.
        keys: the recipe's `watch` section; None: as in the recipe that travels with the release.
        events: told what was examined and what was found.
        now: with a time zone; default: the clock.
        include_open: examine unfinished days and weeks as far as they go.
        base_folder: where a relative base reference of the bundle starts.

    Raises:
        Refused: no release of the specialist is approved.
    """
    release = workspace.ledger.approved(specialist)
    if release is None:
        raise Refused(f"no release of '{specialist}' is approved", place="watch", fix=f"promote one with `attune promote {specialist}`; what does not serve cannot be watched")
    now = now or datetime.now(UTC)
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    earlier = [w for w in workspace.ledger.find(Window, specialist) if w.release_id == release.id]
    requests = [r for r in workspace.ledger.requests(specialist) if r["release_id"] == release.id]
    folder = release_folder(workspace, release)
    keys = keys or _keys_of(folder)
    periods = cut(requests, keys.window, [(w.begin, w.end) for w in earlier], now, include_open)
    task = task_of(folder)
    examiner = _Examiner(release, keys, task, fitting_detectors(keys, task, events), folder, base_folder, events)
    windows = []
    for number, period in enumerate(periods, start=1):
        window = examiner.examine(period)
        if window is not None:
            windows.append(window)
        events.progress("windows", number, len(periods))
    if not periods:
        waiting = "" if include_open else f"; an unfinished {keys.window} waits until it is over"
        events.note(f"no new window: {len(requests)} requests of {release.id} are logged, {len(earlier)} windows were examined before{waiting}")
    alarmed = [w for w in windows if w.alarm]
    retune = request_retune(workspace, release, task, alarmed, [w for w in earlier if w.alarm], requests, examiner.novelty, events)
    return windows, retune


def _keys_of(folder: Path) -> WatchKeys:
    values, _ = read_yaml_file(folder / "recipe.yaml")
    keys = catalog.validate(WatchKeys, values.get("watch") or {}, "watch")
    assert isinstance(keys, WatchKeys)
    return keys


def fitting_detectors(keys: WatchKeys, task: Task, events: Events) -> list[Detector]:
    """The recipe's detectors, or the task's, that fit the task; one that does not is left out with a note."""
    found: list[Detector] = []
    for number, spec in enumerate(keys.detectors if keys.detectors is not None else task.defaults.detectors):
        detector: Detector = catalog.build("detectors", spec, f"watch.detectors[{number}]")
        try:
            require_fit(task, detector)
        except PlugError as error:
            events.note(f"left out: {error.what}")
            continue
        found.append(detector)
    if not found:
        raise Refused(f"no detector is left that fits task '{task.name}'", place="watch.detectors", fix=f"name some that do: {', '.join(task.defaults.detectors) or 'see `attune list detectors`'}")
    return found


@dataclass
class _Examiner:
    """One release's reference, model and detectors; the model is loaded when a window needs it."""

    release: Release
    keys: WatchKeys
    task: Task
    detectors: list[Detector]
    folder: Path
    base_folder: Path | None
    events: Events

    def __post_init__(self) -> None:
        self.novelty: dict[str, float] = {}
        self.embeds = any("embeds" in d.requires for d in self.detectors)
        self.level = significance(self.keys, len(self.detectors))
        self.resamples = resamples_needed(self.keys, self.level)
        self._reference: WindowData | None = None
        self._specialist: Specialist | None = None

    @property
    def reference(self) -> WindowData:
        if self._reference is None:
            found = read_reference(self.folder)
            found = masked_reference(found, self._embedder())
            self._reference = found if self.embeds else replace(found, embeddings=found.embeddings[:, :0])
        return self._reference

    def examine(self, period: Period) -> Window | None:
        """The period's window; None when it is unfinished and too small, so that it can still grow."""
        rows = len(period.requests)
        labelled = sum(r["answer"] is not None for r in period.requests)
        if rows < self.keys.min_rows:
            self.events.note(f"{period.name}: {NOT_ENOUGH} ({rows} requests; a window needs {self.keys.min_rows}, see watch.min_rows and watch.window)")
            if period.unfinished:
                return None
            results = [_no_data(d, rows, self.keys.min_rows, "requests") for d in self.detectors]
        else:
            embedder = self._embedder() if self.reference.embeddings.size else None
            data = window_data(period.requests, self.task, embedder, graded=bool(np.isfinite(self.reference.correct).any()))
            results = [self._ask(detector, data, period) for detector in self.detectors]
            if any(r["alarm"] for r in results) and data.embeddings.size:
                distances = zip(period.requests, _distances(data.embeddings, self.reference.embeddings), strict=True)
                self.novelty |= {request["id"]: float(distance) for request, distance in distances if np.isfinite(distance)}
        alarm = any(r["alarm"] for r in results)
        if alarm:
            said = " ".join(r["summary"] for r in results if r["alarm"])
            self.events.warn(f"ALARM for {period.name} ({rows} requests): {said}", release=self.release.id)
        elif rows >= self.keys.min_rows:
            self.events.note(f"{period.name}: no alarm ({rows} requests, {labelled} with feedback)")
        return Window(
            specialist=self.release.specialist,
            parents=(self.release.id,),
            release_id=self.release.id,
            begin=period.begin,
            end=period.end,
            rows=rows,
            labelled=labelled,
            results=tuple(results),
            alarm=alarm,
        )

    def _embedder(self) -> Specialist | None:
        if not self.embeds:
            return None
        if self._specialist is None:
            self._specialist = open_bundle(self.folder, base_folder=self.base_folder, id=self.release.id)
        return self._specialist

    def _ask(self, detector: Detector, data: WindowData, period: Period) -> dict[str, Any]:
        window = data.take(detector.usable(data))
        reference = self.reference.take(detector.usable(self.reference))
        for side, what in ((window, "usable requests"), (reference, "usable rows in the release's reference")):
            if len(side) < detector.min_rows:
                return _no_data(detector, len(side), detector.min_rows, what)
        draws = randomness.generator(int(self.release.bundle_digest[:12], 16), f"watch {detector.name} {period.begin} {period.end}")
        outcome = permutation_test(detector, reference, window, self.level, self.resamples, draws)
        found = detector.explain(reference, window)
        summary = found["summary"] if outcome.alarm else f"Nothing beyond chance (p = {outcome.p_value:.2g})."
        return {
            **found,
            "name": detector.name,
            "rows": len(window),
            "reference_rows": len(reference),
            "statistic": outcome.statistic,
            "threshold": outcome.threshold,
            "p_value": outcome.p_value,
            "level": self.level,
            "alarm": outcome.alarm,
            "summary": summary,
            "effect": float(found["effect"]),
            "examples": list(found["examples"]) if outcome.alarm else [],
        }


def _no_data(detector: Detector, rows: int, needed: int, what: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("statistic", "threshold", "p_value", "effect"))
    return {"name": detector.name, "rows": rows, "alarm": False, "summary": f"{NOT_ENOUGH}: {rows} {what}, {needed} needed", "examples": [], **nothing}


def _distances(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance of each vector to its nearest reference row; [n, d] and [r, d] -> [n]."""
    squared = (vectors**2).sum(1)[:, None] + (reference**2).sum(1)[None, :] - 2 * vectors @ reference.T
    found: np.ndarray = np.sqrt(np.maximum(squared.min(1), 0))
    return found
