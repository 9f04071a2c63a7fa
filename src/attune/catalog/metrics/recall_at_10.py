"""Share of the right texts that stand among the first ten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means, _ranks
from attune.core.contracts import Metric, Prediction, Signature


class RecallAt10(Metric):
    """Right texts in the first ten places over all right texts of the row, the mean over rows."""

    requires: ClassVar[frozenset[str]] = frozenset({"vector-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Found share of the row's right texts; 0 when there are none."""
        return _means.rows(sum(place <= 10 for place in places) / wanted if wanted else 0.0 for places, wanted in _ranks.places(truth, predictions))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
