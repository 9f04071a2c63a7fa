"""How far off the numbers are, on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attune.core.contracts import Metric, Prediction, Signature


class MeanAbsoluteError(Metric):
    """Mean of the absolute differences, in the unit of the numbers."""

    requires = frozenset({"number-out"})
    higher_is_better = False
    percent = False

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Difference and 1."""
        return np.array([[abs(float(p.output) - float(t)), 1.0] for t, p in zip(truth, predictions, strict=True)], dtype=np.float64).reshape(-1, 2)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows; NaN without rows."""
        return np.where(totals[..., 1] > 0, totals[..., 0] / np.maximum(totals[..., 1], 1e-300), np.nan)
