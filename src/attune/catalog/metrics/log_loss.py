"""Mean surprise about the right label (negative log of its probability): low when the model is right and honest about its doubts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.answers import label_set
from attune.core.contracts import Metric, Prediction, Signature

LEAST = 1e-15
"""Probabilities are kept this far from 0 and 1, so that one sure mistake does not make the mean infinite."""


class LogLoss(Metric):
    """Cross-entropy in nats; with several labels a row, the mean over the yes/no decisions. NaN when an answer carries no probabilities."""

    requires: ClassVar[frozenset[str]] = frozenset({"label-out"})
    higher_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = (0.0, math.inf)

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """The row's cross-entropy."""
        several = bool(signature.get("multi_label"))
        return _means.rows(_row(right, one.scores, signature["labels"], several) for right, one in zip(truth, predictions, strict=True))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)


def _row(right: Any, scores: dict[str, float], labels: Sequence[str], several: bool) -> float:
    if not scores:
        return math.nan
    true = label_set(right)
    if not several:
        return -math.log(_inside(scores.get(next(iter(true), ""), 0.0)))
    return -sum(math.log(_inside(scores.get(label, 0.0) if label in true else 1 - scores.get(label, 0.0))) for label in labels) / max(len(labels), 1)


def _inside(probability: float) -> float:
    return min(max(float(probability), LEAST), 1 - LEAST)
