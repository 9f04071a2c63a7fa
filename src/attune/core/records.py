"""The records that stages hand to each other: immutable, JSON, addressed by the hash of their content."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, the same text for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def digest(value: Any) -> str:
    """sha256 hex of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Record(BaseModel):
    """Base of every record. `id` is derived from the content without `created_at`, so equal content has an equal id.
    `cost`, where a record has one, is no content either: the same result may take longer another time."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")  # a metric may be undefined: NaN has to come back as NaN
    kind: ClassVar[str] = "record"

    specialist: str
    """Name of the specialist (the recipe's `name`)."""
    created_at: str = Field(default_factory=now)
    parents: tuple[str, ...] = ()
    """Ids of the records this one was made from."""

    @property
    def id(self) -> str:
        """kind prefix + 16 hex digits of the content's sha256."""
        body = self.model_dump(mode="json", exclude={"created_at", "cost"})
        return f"{self.kind}-{digest([self.kind, body])[:16]}"


class DatasetVersion(Record):
    """Curated, split rows in the content store."""

    kind: ClassVar[str] = "dataset"
    store_key: str
    """Folder in the content store: train/validation/test/quarantine/receipts as Parquet, card.md, curation.json."""
    task: str
    signature: dict[str, Any]
    columns: dict[str, str | list[str]]
    """Role -> column of the source, or several columns."""
    counts: dict[str, int]
    """read, kept, repaired, quarantined, train, validation, test."""
    findings: dict[str, int]
    """Check name -> number of findings."""
    rows_digest: str
    """sha256 over (row_id, split) of all rows: the data's identity for ordering and resume."""


class Checkpoint(Record):
    """A tuned model as a bundle in the content store."""

    kind: ClassVar[str] = "checkpoint"
    store_key: str
    dataset_id: str
    task: str
    objective: str
    method: str
    base: dict[str, Any]
    """reference, revision, digest of the base's files."""
    recipe_digest: str
    best_step: int
    steps: int
    main_metric: str
    validation: dict[str, float]
    """main metric and loss of the best checkpoint on the validation rows."""
    curve: tuple[dict[str, float], ...]
    """step, epoch, loss, learning_rate, validation values along the run."""
    chosen: dict[str, str]
    """What the loop chose and why: precision, threads, cached features ..."""
    trials: tuple[dict[str, Any], ...] = ()
    """What `method: auto` tried, in order: method, kind (sweep or train), learning_rate, epochs, steps, seconds, validation, loss, outcome."""
    run: str
    """The run folder's name."""
    cost: dict[str, Any] = {}
    """What tuning took: seconds over all its starts, memory_bytes (peak), disk_bytes (most held at once), starts; and `predicted`, the
    forecast of the same, where `attune check` made one (`upper`: of what it is the most, where it is no more than that), or `not_predicted`:
    why it could make none."""


class Estimate(BaseModel):
    """A metric's value with its bootstrap interval."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    value: float
    low: float
    high: float


class Comparison(BaseModel):
    """The tuned model against one rival on one metric, over the same rows."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    rival: str
    metric: str
    difference: float
    """How much better the tuned model is: positive is better, also where a lower metric is better."""
    low: float
    high: float
    p_value: float
    """Two-sided paired permutation test."""


class GateResult(BaseModel):
    """One gate's outcome in plain words."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    gate: str
    outcome: Literal["pass", "fail", "inconclusive"]
    reason: str


Verdict = Literal["SHIP", "NO-SHIP", "INCONCLUSIVE"]


class Scorecard(Record):
    """How the tuned model did on the sealed test rows, against its rivals."""

    kind: ClassVar[str] = "scorecard"
    store_key: str
    """Folder in the content store: report.html, scorecard.json, predictions.parquet, reference.parquet (drift reference)."""
    checkpoint_id: str
    dataset_id: str
    test_rows: int
    test_uses: int
    """The largest number of times that any of these test rows had been opened for this specialist, this time included."""
    confidence: float
    resamples: int
    results: dict[str, dict[str, Estimate]]
    """Contestant -> metric -> estimate; the tuned model is 'tuned'."""
    comparisons: tuple[Comparison, ...]
    per_class: dict[str, dict[str, float]]
    """Metric -> class -> value, of the tuned model."""
    probes: dict[str, dict[str, Any]]
    gates: tuple[GateResult, ...]
    verdict: Verdict
    reasons: tuple[str, ...]


class Release(Record):
    """An approved-or-not version of the specialist: the bundle, its scorecard and its place in the line."""

    kind: ClassVar[str] = "release"
    store_key: str
    """The bundle with scorecard and model card inside."""
    version: int
    """1, 2, 3 ... per specialist."""
    checkpoint_id: str
    scorecard_id: str
    dataset_id: str
    verdict: Verdict
    bundle_digest: str


class Window(Record):
    """A period of requests as the watch stage examined it."""

    kind: ClassVar[str] = "window"
    release_id: str
    begin: str
    end: str
    rows: int
    labelled: int
    results: tuple[dict[str, Any], ...]
    """Per detector: name, rows, statistic, threshold, p_value, alarm, summary, effect, examples."""
    alarm: bool


class RetuneRequest(Record):
    """A written wish for another cycle: why, and which new rows."""

    kind: ClassVar[str] = "retune"
    release_id: str
    window_ids: tuple[str, ...]
    reason: str
    rows_key: str
    """Store key of new_rows.jsonl: requests of the window with the right answers that feedback gave."""
    new_rows: int


RECORD_TYPES: dict[str, type[Record]] = {cls.kind: cls for cls in Record.__subclasses__()}
"""kind -> record class, found from the classes above."""
