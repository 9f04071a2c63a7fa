"""Recall (how many rows of a label are found), the mean over classes: every class counts the same, however rare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _labels
from attune.core.contracts import Metric, Prediction, Signature


class RecallMacro(Metric):
    """Mean over the labels that occur in truth or predictions (scikit-learn's default); see `_labels`."""

    requires: ClassVar[frozenset[str]] = frozenset({"label-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Per label: hit, predicted, true."""
        return _labels.counts(truth, predictions, signature)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over the labels that occur; NaN when none does."""
        _, recall, _, _, occurs = _labels.shares(totals)
        return _labels.macro(recall, occurs)

    def breakdown(self, totals: np.ndarray, signature: Signature) -> dict[str, float]:
        """Recall per class."""
        _, recall, _, _, occurs = _labels.shares(totals)
        return _labels.per_class(recall, occurs, signature)
