"""Share of hidden words that the model finds: its first guess is the word that stood there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.core.contracts import Metric, Prediction, Signature


class MaskedAccuracy(Metric):
    """Found tokens over hidden tokens, all rows together; NaN for a contestant that guesses no words."""

    requires: ClassVar[frozenset[str]] = frozenset({"mask-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """float64 [n, 2]: found and hidden tokens."""
        return np.array([[one.extra.get("hits", math.nan), one.extra.get("nll_tokens", math.nan)] for one in predictions], dtype=np.float64).reshape(-1, 2)

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Share of the hidden tokens."""
        totals = np.asarray(totals, dtype=np.float64)
        return totals[..., 0] / np.where(totals[..., 1] > 0, totals[..., 1], np.nan)
