"""Recall (how many rows of a label are found) over all decisions together: frequent classes count more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _labels
from attune.core.contracts import Metric, Prediction, Signature


class RecallMicro(Metric):
    """Counts of all labels pooled; equals accuracy where every row has exactly one label."""

    requires: ClassVar[frozenset[str]] = frozenset({"label-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Per label: hit, predicted, true."""
        return _labels.counts(truth, predictions, signature)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Pooled share; 0 when nothing was predicted and nothing is true."""
        return _labels.micro(totals, over=(2,))
