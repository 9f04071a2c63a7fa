"""What the ranking metrics share: at which places of the ranked list the right answers stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attune.core.answers import accepted
from attune.core.contracts import Prediction


def places(truth: Sequence[Any], predictions: Sequence[Prediction]) -> list[tuple[list[int], int]]:
    """Per row: the places (from 1, rising) of the right texts in the ranked list, and how many right texts there are."""
    found = []
    for right, prediction in zip(truth, predictions, strict=True):
        wanted = set(accepted(right))
        ranked = prediction.output if isinstance(prediction.output, (list, tuple)) else []
        first: dict[str, int] = {}
        for place, one in enumerate(ranked, start=1):
            if one in wanted and one not in first:
                first[one] = place
        found.append((sorted(first.values()), len(wanted)))
    return found
