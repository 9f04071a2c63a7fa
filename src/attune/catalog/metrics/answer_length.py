"""Mean number of words of the answers: neither long nor short is better, but who became longer may only have become wordy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.contracts import Metric, Prediction, Signature


class AnswerLength(Metric):
    """Words are what white space sets apart; the right answers are not looked at."""

    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})
    neutral: ClassVar[bool] = True
    percent: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = (0.0, math.inf)

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """Words of each answer."""
        return _means.rows(len(str(one.output).split()) for one in predictions)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
