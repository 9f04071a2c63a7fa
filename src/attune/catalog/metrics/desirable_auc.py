"""Chance that the model holds an answer marked good for likelier per token than one marked bad; a tie counts half, so 50% is no better than guessing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.core.contracts import Metric, Prediction, Signature

LOWEST, WIDTH, BINS = -12.0, 0.05, 240
"""The bins of log-probability per token, in nats: from `LOWEST`, each `WIDTH` wide, to 0; what lies below counts as in the first."""


class DesirableAuc(Metric):
    """Area under the ROC curve (Hanley & McNeil 1982) of `likelihood`, the mean log-probability per token, for telling good answers from bad ones.

    Counted in bins, so that it is a function of sums over rows; answers in one bin are a tie. NaN where answers of one kind, or their
    likelihoods, are missing. Answers to different questions are compared with each other, so what tells is the difference to the untouched base.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"text-out", "prefers"})
    reads_outputs: ClassVar[bool] = False
    guessing: ClassVar[float | None] = 0.5

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """A one in the bin of the row's answer: bad answers in the first half of the columns, good ones in the second."""
        found = np.zeros((len(predictions), 2 * BINS))
        for row, one in zip(found, predictions, strict=True):
            held = one.extra.get("likelihood", math.nan)
            if math.isnan(held):
                row[:] = math.nan
                continue
            row[min(max(int((held - LOWEST) / WIDTH), 0), BINS - 1) + BINS * bool(one.extra["desirable"])] = 1.0
        return found

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Pairs of a good and a bad answer in which the good one is ahead, and half of those in one bin, over all such pairs."""
        totals = np.asarray(totals, dtype=np.float64)
        bad, good = totals[..., :BINS], totals[..., BINS:]
        ahead = (good * (bad.cumsum(-1) - 0.5 * bad)).sum(-1)
        pairs = good.sum(-1) * bad.sum(-1)
        return np.where(pairs > 0, ahead / np.where(pairs > 0, pairs, 1.0), np.nan)
