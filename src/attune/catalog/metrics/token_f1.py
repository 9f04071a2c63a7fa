"""Overlap of words between the generated text and the right one (F1 over words), the mean over rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.answers import accepted, normalised
from attune.core.contracts import Metric, Prediction, Signature


class TokenF1(Metric):
    """Word F1 after normalisation (Rajpurkar et al. 2016, SQuAD, section 6.1); the best of several right texts counts."""

    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Word F1 of each row."""
        return _means.rows(max((_overlap(one, prediction.output) for one in accepted(right)), default=0.0) for right, prediction in zip(truth, predictions, strict=True))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)


def _overlap(right: str, said: Any) -> float:
    true, found = normalised(right).split(), normalised(said).split()
    if not true or not found:
        return float(true == found)
    shared = sum((Counter(true) & Counter(found)).values())
    return 2 * shared / (len(true) + len(found))
