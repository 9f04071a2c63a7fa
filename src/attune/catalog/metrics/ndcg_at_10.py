"""Normalised discounted cumulative gain over the first ten places: right texts count more the higher they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means, _ranks
from attune.core.contracts import Metric, Prediction, Signature


class NdcgAt10(Metric):
    """Gain 1/log2(place + 1) of right texts over the best possible (Järvelin & Kekäläinen 2002, section 2.2)."""

    requires: ClassVar[frozenset[str]] = frozenset({"vector-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """The row's gain over its best possible gain; 0 when it has no right text."""
        return _means.rows(_gain([place for place in places if place <= 10]) / _gain(range(1, min(wanted, 10) + 1)) if wanted else 0.0 for places, wanted in _ranks.places(truth, predictions))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)


def _gain(places: Sequence[int]) -> float:
    return sum(1 / math.log2(place + 1) for place in places)
