"""What the answers are worth by the rewards that the objective learned from, the mean over rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.contracts import Metric, Prediction, Signature


class MeanReward(Metric):
    """Reads `reward` of each answer, which objective grpo gives to the answers that it grades; NaN for others."""

    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})
    percent: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = (-math.inf, math.inf)

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """The answer's reward."""
        return _means.rows(one.extra.get("reward", math.nan) for one in predictions)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
