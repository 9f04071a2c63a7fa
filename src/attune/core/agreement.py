"""Comparing two contestants' answers row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attune.core.contracts import Prediction, Row
from attune.core.errors import IntegrityError

TOLERANCE = 1e-4
"""Largest difference of a probability (or of an entry of a vector) that still counts as the same answer."""


def compare(own: Sequence[Prediction], theirs: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
    """How two contestants' answers to the same rows differ: `rows`, `max_difference` (of probabilities or vector entries) and
    `disagreements` (row id and why)."""
    if len(own) != len(rows) or len(theirs) != len(rows):
        raise IntegrityError(f"{len(theirs)} answers came back to {len(rows)} golden rows", place="export", fix="the exported form does not answer every row")
    disagreements = []
    largest = 0.0
    for row, a, b in zip(rows, own, theirs, strict=True):
        why, difference = _difference(a, b)
        largest = max(largest, difference) if math.isfinite(difference) else largest
        if why:
            disagreements.append({"row_id": row.get("row_id", ""), "why": why})
    return {"rows": len(rows), "max_difference": largest, "tolerance": TOLERANCE, "disagreements": disagreements}


def _difference(a: Prediction, b: Prediction) -> tuple[str, float]:
    """Why two answers are not the same ('' when they are) and their largest numeric difference."""
    first, second = _vector(a.output), _vector(b.output)
    if first is not None:
        if second is None or len(second) != len(first):
            return "one is a vector, the other is none of the same length", 0.0
        difference = max((_apart(x, y) for x, y in zip(first, second, strict=True)), default=0.0)
        return (f"vectors differ by {difference:.2e}" if not difference <= TOLERANCE else ""), difference
    if a.output != b.output:
        return f"{a.output!r} became {b.output!r}", 0.0
    if a.scores.keys() != b.scores.keys():
        return "probabilities of other labels", 0.0
    difference = max((_apart(a.scores[label], b.scores[label]) for label in a.scores), default=0.0)
    return (f"a probability differs by {difference:.2e}" if not difference <= TOLERANCE else ""), difference


def _apart(x: float, y: float) -> float:
    """|x - y|; infinite where either is not a number, so that it can never count as agreement."""
    return abs(x - y) if math.isfinite(x) and math.isfinite(y) else math.inf


def _vector(output: Any) -> list[float] | None:
    values = output.tolist() if hasattr(output, "tolist") else output
    if isinstance(values, float):
        values = [values]
    if isinstance(values, (list, tuple)) and values and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in values):
        return [float(x) for x in values]
    return None
