"""Mean reciprocal rank: one over the place of the first right text, the mean over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means, _ranks
from attune.core.contracts import Metric, Prediction, Signature


class Mrr(Metric):
    """1 when the right text is always first, 1/2 when always second, 0 when never found (Voorhees 1999, TREC-8)."""

    requires: ClassVar[frozenset[str]] = frozenset({"vector-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """One over the first right place; 0 when there is none."""
        return _means.rows(1 / places[0] if places else 0.0 for places, wanted in _ranks.places(truth, predictions))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
