"""Metrics that are a plain mean of one number per row."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def rows(values: Iterable[float]) -> np.ndarray:
    """float64 [n, 2]: the row's number and a one, so that sums can be divided."""
    column = np.fromiter((float(value) for value in values), dtype=np.float64)
    return np.stack([column, np.ones_like(column)], axis=1)


def mean(totals: np.ndarray) -> np.ndarray:
    """Sum of the numbers over the number of rows; NaN without rows."""
    totals = np.asarray(totals, dtype=np.float64)
    return np.where(totals[..., 1] > 0, totals[..., 0] / np.where(totals[..., 1] > 0, totals[..., 1], 1.0), np.nan)
