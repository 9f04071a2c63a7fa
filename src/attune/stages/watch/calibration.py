"""When is a shift more than chance? The budget for false alarms becomes a significance level, and each detector is tested at it.

**Level.** The user states one false alarm in N days at most. With w windows a day and K detectors, each tested at level a, the expected
number of false alarms in N days is at most N * w * K * a (the union bound; detectors see the same rows, so the true number is lower).
Setting that to one gives a = 1 / (N * w * K). It is never looser than 0.05. A window of kind 'all' counts as one a day.

**Test.** Under 'nothing changed' the rows of the window and of the release's reference (its test rows) are exchangeable: any division of
the pooled rows into n and m is equally likely. So the statistic is computed for many random divisions and the p-value is the share that is
at least as large, the real division included (Phipson and Smyth 2010, equation 2). This is valid at every n, m and for every statistic,
whether the window is smaller or larger than the reference. A quantile of 'm reference rows against the others' is not: with 200 reference
rows it does not exist for m >= 200, and a bootstrap of a window from the reference hides the reference's own sampling error.

**Resamples.** At least 10 / a divisions are drawn, so that the level is a rank that exists and no tail has to be extrapolated.

What the level promises is an average over releases: one reference serves all windows of a release, so a reference that happens to
be unusual makes its few false alarms come together. The benchmark `drift_calibration` shows the spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attune.core.contracts import Detector, WindowData
from attune.core.recipe import WatchKeys

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOWS_PER_DAY = {"day": 1.0, "week": 1 / 7, "all": 1.0}
LOOSEST = 0.05
DRAWS_PER_LEVEL = 10
"""Divisions expected above the threshold by chance."""
_CELLS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Outcome:
    """What a permutation test found; the detector alarms when `statistic` is above `threshold`, which is when `p_value` <= the level."""

    statistic: float
    threshold: float
    p_value: float
    alarm: bool


def significance(keys: WatchKeys, detectors: int) -> float:
    """The level of one detector on one window (see the module's text)."""
    return min(1 / (keys.false_alarms_days * WINDOWS_PER_DAY[keys.window] * max(detectors, 1)), LOOSEST)


def resamples_needed(keys: WatchKeys, level: float) -> int:
    """Random divisions per test: the recipe's number, or more where the level needs it."""
    return max(keys.resamples, math.ceil(DRAWS_PER_LEVEL / level - 1e-9) - 1)


def permutation_test(detector: Detector, reference: WindowData, window: WindowData, level: float, resamples: int, draws: np.random.Generator) -> Outcome:
    """Test whether `window` could be a random part of reference and window together.

    Args:
        reference: n usable rows of the release's reference.
        window: m usable rows of the window.
        level: chance of a false alarm.
        resamples: random divisions; (resamples + 1) * level must be 1 or more for an alarm to be possible.
        draws: where the divisions come from.
    """
    rows = reference.joined(window)
    parts = [detector.statistics(rows, chosen) for chosen in _divisions(len(reference), len(window), resamples, draws)]
    statistic, by_chance = float(parts[0][0]), np.concatenate([parts[0][1:], *parts[1:]])
    slack = 1e-9 * max(abs(statistic), 1e-12)
    p_value = (1 + int((by_chance >= statistic - slack).sum())) / (resamples + 1)
    allowed = math.floor(level * (resamples + 1) + 1e-9)
    threshold = float(np.partition(by_chance, resamples - allowed)[resamples - allowed]) if allowed else math.inf
    return Outcome(statistic, threshold, p_value, allowed > 0 and p_value <= level + 1e-12)


def _divisions(n: int, m: int, resamples: int, draws: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks of bool [b, n + m] with m True in each row; the very first row is the real division."""
    size = n + m
    block = max(1, _CELLS_AT_ONCE // size)
    real = (np.arange(size) >= n)[None, :]
    for begin in range(0, resamples, block):
        count = min(block, resamples - begin)
        places = np.argpartition(draws.random((count, size), dtype=np.float32), m - 1, axis=1)[:, :m]
        chosen = np.zeros((count, size), dtype=bool)
        np.put_along_axis(chosen, places, True, axis=1)
        yield np.concatenate([real, chosen]) if begin == 0 else chosen
