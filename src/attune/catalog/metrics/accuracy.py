"""Share of rows answered right; with several labels a row, all of them must be right (subset accuracy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.answers import label_set
from attune.core.contracts import Metric, Prediction, Signature


class Accuracy(Metric):
    """Right rows over all rows."""

    requires: ClassVar[frozenset[str]] = frozenset({"label-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where the label (or the whole set of labels) is right."""
        return _means.rows(label_set(right) == label_set(prediction.output) for right, prediction in zip(truth, predictions, strict=True))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
