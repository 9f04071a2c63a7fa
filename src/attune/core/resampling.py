"""Drawing rows again: what intervals and comparisons stand on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attune.core import randomness
from attune.core.contracts import Figure, Row

CHUNK_CELLS = 4_000_000
"""Weights held at once, in numbers."""


def groups_of(rows: Sequence[Row]) -> list[int] | None:
    """A number per row, equal for rows of one group (a customer, a patient): they are one piece of evidence. None when no two rows share one."""
    names: dict[str, int] = {}
    numbers = [names.setdefault(f"g{row['group']}" if row.get("group") is not None else f"r{place}", len(names)) for place, row in enumerate(rows)]
    return numbers if len(names) < len(rows) else None


def bootstrap_weights(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `rows` is drawn in each resample, float64 [part, rows]; every row of it sums to `rows`.

    Efron & Tibshirani 1993, chapter 6: rows drawn with replacement.
    """
    random = randomness.generator(seed, "grade.bootstrap")
    for part in parts(resamples, rows):
        drawn = random.integers(0, rows, size=(part, rows)) + np.arange(part)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=part * rows).reshape(part, rows).astype(np.float64)


def parts(resamples: int, rows: int) -> Iterator[int]:
    """Sizes of the pieces in which so many resamples of so many rows are drawn."""
    size = max(1, CHUNK_CELLS // max(rows, 1))
    for begin in range(0, resamples, size):
        yield min(size, resamples - begin)


def chance_better(ours: np.ndarray, theirs: np.ndarray, metric: Figure, seed: int, resamples: int = 2000) -> float:
    """Share of paired bootstrap resamples in which our contributions [n, k] make the better value than theirs; ties count half."""
    sign = 1.0 if metric.higher_is_better else -1.0
    gains = np.concatenate([sign * (metric.value(weights @ ours) - metric.value(weights @ theirs)) for weights in bootstrap_weights(len(ours), resamples, seed)])
    return float(((gains > 0) + 0.5 * (gains == 0)).mean())
