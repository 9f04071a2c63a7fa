"""Share of pairs whose better answer the model prefers: by its score, or by its likelihood per token; a tie counts half."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.contracts import Metric, Prediction, Signature


class PreferenceAccuracy(Metric):
    """Reads `margin`, by how much the better answer is ahead of the worse one. NaN where an answer carries none."""

    requires: ClassVar[frozenset[str]] = frozenset({"prefers"})
    reads_outputs: ClassVar[bool] = False

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where the better answer is ahead, 0.5 where neither is, 0 where the worse one is."""
        return _means.rows(_row(one.extra.get("margin")) for one in predictions)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)


def _row(margin: float | None) -> float:
    return math.nan if margin is None or math.isnan(margin) else (margin > 0) + 0.5 * (margin == 0)
