"""What several kinds' checks share."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from attune.core.agreement import compare
from attune.core.contracts import Prediction, Row


def same(own: Sequence[Prediction], theirs: Sequence[Prediction], rows: Sequence[Row], what: str) -> None:
    """Assert that two lists of answers agree: outputs equal, probabilities and vectors within 1e-4."""
    assert len(own) == len(theirs) == len(rows), f"{what}: {len(own)} and {len(theirs)} answers to {len(rows)} rows"
    apart = compare(own, theirs, rows)["disagreements"]
    assert not apart, f"{what}: {len(apart)} of {len(rows)} answers differ; the first: {apart[0]['why']}"


def well_formed(answers: Sequence[Prediction], rows: Sequence[Row]) -> None:
    """Assert that there is one answer per row, and that probabilities and confidences are such."""
    assert len(answers) == len(rows), f"{len(answers)} answers to {len(rows)} rows"
    for one in answers:
        assert isinstance(one, Prediction), f"an answer is a {type(one).__name__}, not a Prediction"
        assert one.output is not None, "an answer has no output"
        assert all(-1e-6 <= p <= 1 + 1e-6 for p in one.scores.values()), f"scores are not probabilities: {one.scores}"
        assert one.confidence is None or (math.isfinite(one.confidence) and -1e-6 <= one.confidence <= 1 + 1e-6), f"confidence {one.confidence} is not in [0, 1]"


class Unchanged:
    """Asserts at the end of its block that a value is what it was."""

    def __init__(self, value: Any, what: str) -> None:
        self.value, self.what = value, what
        self.before = copy.deepcopy(value)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is None:
            assert self.value == self.before, f"{self.what} were changed"
