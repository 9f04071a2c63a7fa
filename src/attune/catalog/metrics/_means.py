"""Metrics that are a plain mean of one number per row."""

from __future__ import annotations

import numpy as np

from attune.core.figures import Share
from attune.core.figures import means as rows

__all__ = ["mean", "rows"]


def mean(totals: np.ndarray) -> np.ndarray:
    """Sum of the numbers over the number of rows; NaN without rows."""
    return Share().value(totals)
