"""Share of rows whose best-ranked text is a right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means, _ranks
from attune.core.contracts import Metric, Prediction, Signature


class HitAt1(Metric):
    """Right text in first place, over all rows."""

    requires: ClassVar[frozenset[str]] = frozenset({"vector-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where a right text stands first."""
        return _means.rows(places[:1] == [1] for places, wanted in _ranks.places(truth, predictions))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
