"""F1 (harmonic mean of precision and recall), the mean over classes weighted by their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _labels
from attune.core.contracts import Metric, Prediction, Signature


class F1Weighted(Metric):
    """Mean over labels, each weighted by its number of true rows."""

    requires: ClassVar[frozenset[str]] = frozenset({"label-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Per label: hit, predicted, true."""
        return _labels.counts(truth, predictions, signature)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Weighted mean; NaN when no row has a label."""
        _, _, f1, support, _ = _labels.shares(totals)
        rows = support.sum(-1)
        return np.where(rows > 0, (f1 * support).sum(-1) / np.where(rows > 0, rows, 1.0), np.nan)
