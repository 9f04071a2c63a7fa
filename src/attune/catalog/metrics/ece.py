"""Calibration error: how far stated confidence is from the share of right answers, over 15 bins of confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.core.answers import label_set
from attune.core.contracts import Metric, Prediction, Signature
from attune.core.keys import Keys, key


class EceKeys(Keys):
    """Keys of the metric."""

    bins: int = key(15, "equal-width bins of confidence", ge=2, le=100)


class Ece(Metric):
    """Expected calibration error with fixed, equal-width bins (Guo et al. 2017, equation 3), which makes it a function of sums.

    One label a row: the confidence of the answer against right or wrong. Several labels: every label's probability against
    whether it holds. NaN when an answer carries no confidence.
    """

    keys_type = EceKeys
    requires: ClassVar[frozenset[str]] = frozenset({"label-out"})
    higher_is_better: ClassVar[bool] = False

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """float64 [n, 3 x bins]: per bin the decisions, their summed confidence, and how many came true."""
        several, bins = bool(signature.get("multi_label")), self.keys.bins
        found = np.zeros((len(truth), 3, bins))
        for row, (right, one) in enumerate(zip(truth, predictions, strict=True)):
            for confidence, came_true in _decisions(right, one, several):
                if math.isnan(confidence):
                    found[row] = np.nan
                    break
                place = min(int(confidence * bins), bins - 1)
                found[row, :, place] += (1.0, confidence, came_true)
        return found.reshape(len(truth), 3 * bins)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean gap between confidence and truth, weighted by the decisions in each bin; NaN without decisions."""
        count, confidence, came_true = np.split(np.asarray(totals, dtype=np.float64), 3, axis=-1)
        decisions = count.sum(-1)
        return np.where(decisions != 0, np.abs(confidence - came_true).sum(-1) / np.where(decisions != 0, decisions, 1.0), np.nan)


def _decisions(right: Any, one: Prediction, several: bool) -> list[tuple[float, float]]:
    if several:
        true = label_set(right)
        return [(float(p), float(label in true)) for label, p in one.scores.items()] or [(math.nan, 0.0)]
    return [(math.nan if one.confidence is None else float(one.confidence), float(label_set(right) == label_set(one.output)))]
