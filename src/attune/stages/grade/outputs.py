"""What grading leaves in the store: the scorecard for machines, every answer, the reference that watching compares with, and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from attune.core.contracts import Metric, Prediction, Rival, Row, coarse_label
from attune.core.recipe import Recipe
from attune.core.records import Checkpoint, DatasetVersion, Release, canonical_json
from attune.stages.grade.gates import TUNED
from attune.stages.grade.report import report_html


@dataclass
class Grading:
    """One finished grading, before it is written."""

    recipe: Recipe
    dataset: DatasetVersion
    checkpoint: Checkpoint
    current: Release | None
    metrics: Mapping[str, Metric]
    rivals: Mapping[str, Rival]
    rows: Sequence[Row]
    texts: Sequence[str]
    truth: Sequence[Any]
    answers: Mapping[str, Sequence[Prediction]]
    """Contestant -> answers, in the order of the rows."""
    embeddings: np.ndarray | None
    """float32 [n, d] of the tuned model, where the task embeds."""
    evidence_rows: int
    """Independent rows (or groups) behind the intervals."""
    counted: Mapping[str, int]
    """Metric -> those of them that count for it."""
    facts: dict[str, Any]
    """The scorecard's fields."""
    plugs: dict[str, Any]


def write(folder: Path, grading: Grading, dataset_folder: Path) -> None:
    """Write every file of the scorecard's folder."""
    (folder / "scorecard.json").write_text(json.dumps(plain_json(scorecard_json(grading)), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    _write_predictions(folder / "predictions.parquet", grading)
    _write_reference(folder, grading)
    (folder / "report.html").write_text(report_html(grading, dataset_folder), encoding="utf-8")


def scorecard_json(grading: Grading) -> dict[str, Any]:
    """The scorecard with what its record does not hold: directions, plugs, recipe and base; for machines and for the release."""
    recipe, checkpoint = grading.recipe, grading.checkpoint
    return {
        **grading.facts,
        "main_metric": recipe.main_metric,
        "metrics": {name: {"higher_is_better": metric.higher_is_better, "percent": metric.percent} for name, metric in grading.metrics.items()},
        "rivals": list(grading.rivals),
        "companions": [name for name, rival in grading.rivals.items() if not rival.opponent],
        "rivals_said": {name: rival.note for name, rival in grading.rivals.items() if rival.note},
        "current": grading.current.id if grading.current else None,
        "independent_rows": grading.evidence_rows,
        "counted_rows": dict(grading.counted),
        "graded_with": grading.plugs,
        "recipe_digest": recipe.digest,
        "seed": recipe.keys.seed,
        "task": recipe.task.name,
        "method": checkpoint.method,
        "objective": checkpoint.objective,
        "base": checkpoint.base,
        "rows_digest": grading.dataset.rows_digest,
    }


def plain_json(value: Any) -> Any:
    """Records as mappings and undefined numbers as null, because JSON has neither."""
    if isinstance(value, BaseModel):
        return plain_json(value.model_dump(mode="python"))
    if isinstance(value, Mapping):
        return {str(name): plain_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _write_predictions(path: Path, grading: Grading) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {
        "row_id": [str(row["row_id"]) for row in grading.rows],
        "text": list(grading.texts),
        "truth": [canonical_json(one) for one in grading.truth],
        "confidence": [answer.confidence for answer in grading.answers[TUNED]],
    }
    columns |= {who: [canonical_json(answer.output) for answer in answers] for who, answers in grading.answers.items()}
    pq.write_table(pa.table(columns, schema=pa.schema([(name, pa.float64() if name == "confidence" else pa.string()) for name in columns])), path, compression="zstd")


def _write_reference(folder: Path, grading: Grading) -> None:
    """The test rows as the watch stage looks at requests: text, coarse class of the answer, confidence, right or not, and vectors.

    A vector has no class and is not right or wrong by itself, so those stay empty for tasks that answer with vectors.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    answers = grading.answers[TUNED]
    graded = "vector-out" not in grading.recipe.task.traits
    columns = {
        "text": list(grading.texts),
        "label": [coarse_label(answer.output) if graded else "" for answer in answers],
        "confidence": [answer.confidence for answer in answers],
        "correct": [float(coarse_label(right) == coarse_label(answer.output)) if graded else None for right, answer in zip(grading.truth, answers, strict=True)],
    }
    schema = pa.schema([("text", pa.string()), ("label", pa.string()), ("confidence", pa.float64()), ("correct", pa.float64())])
    pq.write_table(pa.table(columns, schema=schema), folder / "reference.parquet", compression="zstd")
    if grading.embeddings is not None:
        save_file({"embeddings": np.ascontiguousarray(grading.embeddings, dtype=np.float32)}, folder / "reference_embeddings.safetensors")
