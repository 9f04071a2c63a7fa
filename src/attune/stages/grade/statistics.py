"""The numbers behind a verdict: bootstrap intervals and paired permutation tests, each one matrix product over additive rows.

Rows are resampled with one set of weights for all contestants and metrics, so every difference is a paired one. Rows that belong together
(one customer, one patient) are summed first and resampled as wholes, because they are not independent evidence. Rows that add nothing for anybody
(without unit tests, without a right number) are no evidence at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from attune.core import randomness
from attune.core.contracts import Figure
from attune.core.records import Comparison, Estimate
from attune.core.resampling import bootstrap_weights, parts


@dataclass
class Measured:
    """One metric on every contestant: estimates, and the tuned model's comparisons by opponent."""

    name: str
    metric: Figure
    estimates: dict[str, Estimate]
    comparisons: dict[str, Comparison]
    totals: dict[str, np.ndarray]
    """Contestant -> sum of contributions [k]."""
    rows: int | None = None
    """Independent rows (or groups) behind it: those that count for anybody."""
    asked: int | None = None
    """Independent rows (or groups) that were looked at, with those that count for nothing (a row without unit tests)."""
    more: str = ""
    """What gives a probe's measure more rows, in words; empty for what was measured on the test rows."""


def measure(
    metrics: Mapping[str, Figure], contributions: Mapping[str, Mapping[str, np.ndarray]], *, first: str, groups: Sequence[int] | None, resamples: int, confidence: float, seed: int
) -> dict[str, Measured]:
    """Estimates and comparisons of every metric.

    Args:
        metrics: name -> metric.
        contributions: metric -> contestant -> float64 [n, k]; every contestant on the same n rows.
        first: the contestant that the others are compared with.
        groups: a number per row, equal for rows that are not independent; None: every row alone.
        resamples: bootstrap resamples and permutations.
        confidence: level of the intervals.
        seed: of the resampling.
    """
    pool = _Pool()
    places = {(name, who): pool.add(rows, groups) for name, by_who in contributions.items() for who, rows in by_who.items()}
    sums = pool.resampled(resamples, seed)
    found = {}
    for name, metric in metrics.items():
        every = {who: pool.arrays[places[name, who]] for who in contributions[name]}
        counted = np.logical_or.reduce([(rows != 0).any(1) for rows in every.values()])
        arrays = {who: rows[counted] for who, rows in every.items()}
        totals = {who: rows.sum(0) for who, rows in arrays.items()}
        values = {who: float(metric.value(total)) for who, total in totals.items()}
        samples = {who: np.asarray(metric.value(sums[places[name, who]])) for who in arrays}
        estimates = {who: _estimate(values[who], samples[who], arrays[who], metric, confidence) for who in arrays}
        sign = 1.0 if metric.higher_is_better else -1.0
        comparisons = {}
        for who in arrays:
            if who == first:
                continue
            gain = sign * (values[first] - values[who])
            low, high = _difference_interval(gain, sign * (samples[first] - samples[who]), arrays[first], arrays[who], sign, metric, confidence)
            p = permutation_p(arrays[first], arrays[who], lambda t, m=metric: np.asarray(m.value(t)), resamples, seed)  # type: ignore[misc]
            comparisons[who] = Comparison(rival=who, metric=name, difference=gain, low=low, high=high, p_value=p)
        found[name] = Measured(name, metric, estimates, comparisons, totals, len(arrays[first]), len(counted))
    return found


class _Pool:
    """Contribution arrays, equal ones kept once: F1, precision and recall share theirs."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._known: dict[tuple[tuple[int, ...], bytes], int] = {}

    def add(self, rows: np.ndarray, groups: Sequence[int] | None) -> int:
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        if groups is not None:
            rows = sum_by_group(rows, groups)
        key = (rows.shape, rows.tobytes())
        if key not in self._known:
            self._known[key] = len(self.arrays)
            self.arrays.append(rows)
        return self._known[key]

    def resampled(self, resamples: int, seed: int) -> list[np.ndarray]:
        """Sums [resamples, k] of every array under the same bootstrap weights."""
        parts: list[list[np.ndarray]] = [[] for _ in self.arrays]
        for weights in bootstrap_weights(len(self.arrays[0]), resamples, seed):
            for place, rows in enumerate(self.arrays):
                parts[place].append(weights @ rows)
        return [np.concatenate(one) for one in parts]


def sum_by_group(rows: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Contributions [n, k] summed over rows with the same group number, [groups, k]."""
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    summed = np.zeros((int(place.max()) + 1, rows.shape[1]))
    np.add.at(summed, place, rows)
    return summed


def permutation_p(ours: np.ndarray, theirs: np.ndarray, value: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int) -> float:
    """Two-sided p-value that two contestants are exchangeable row by row (paired permutation test; Noreen 1989; Yeh 2000, section 2.3).

    In each permutation a fair coin per row decides whether the two swap their contributions [n, k]; the metric is recomputed from the sums.
    Counting the observed arrangement makes the test valid: p is never 0. NaN when the metric is undefined.
    """
    differs = (ours != theirs).any(1)
    total_ours, total_theirs = ours.sum(0), theirs.sum(0)
    observed = float(value(total_ours) - value(total_theirs))
    if math.isnan(observed):
        return math.nan
    change = theirs[differs] - ours[differs]
    random = randomness.generator(seed, "grade.permutation")
    reached = 0
    for part in parts(resamples, len(change)):
        moved = random.integers(0, 2, size=(part, len(change))).astype(np.float64) @ change
        gaps = np.abs(value(total_ours + moved) - value(total_theirs - moved))
        reached += int((gaps >= abs(observed) - 1e-12).sum())
    return (reached + 1) / (resamples + 1)


def _estimate(value: float, samples: np.ndarray, rows: np.ndarray, metric: Figure, confidence: float) -> Estimate:
    """Percentile interval; a share of rows is widened to Wilson's, and so is a 0 or 1 that no resample could move.

    It always holds the value itself: resamples of a calibration error lie above it, because drawing rows twice adds noise to every bin.
    """
    low, high = _percentiles(samples, value, confidence)
    bounded = metric.percent and (_is_share(rows) or (low == high == value and value in (0.0, 1.0)))
    if bounded and not math.isnan(value):
        least, most = wilson(value, len(rows), confidence)
        low, high = min(low, least), max(high, most)
    return Estimate(value=value, low=low, high=high)


def _difference_interval(gain: float, samples: np.ndarray, ours: np.ndarray, theirs: np.ndarray, sign: float, metric: Figure, confidence: float) -> tuple[float, float]:
    """Percentile interval of a paired difference.

    Where rows are right or wrong it is widened to Agresti & Min's, and so is a difference of equal answers: a bootstrap cannot draw what it
    has not seen, so few differing rows would look like certainty.
    """
    low, high = _percentiles(samples, gain, confidence)
    if math.isnan(gain):
        return low, high
    if _is_share(ours) and _is_share(theirs):
        gains = sign * (ours[:, 0] - theirs[:, 0])
        least, most = agresti_min(int((gains > 0).sum()), int((gains < 0).sum()), len(gains), confidence)
        return min(low, least), max(high, most)
    if metric.percent and np.array_equal(ours, theirs):
        return agresti_min(0, 0, len(ours), confidence)
    return low, high


def _percentiles(samples: np.ndarray, value: float, confidence: float) -> tuple[float, float]:
    """Percentiles of the resamples where the metric is defined, widened to hold the value; NaN where the value is."""
    usable = samples[~np.isnan(samples)]
    if math.isnan(value) or not len(usable):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def _is_share(rows: np.ndarray) -> bool:
    """True for contributions (0 or 1, 1): a plain share of independent rows."""
    return bool(rows.shape[1] == 2 and (rows[:, 1] == 1).all() and np.isin(rows[:, 0], (0.0, 1.0)).all())


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(share: float, rows: int, confidence: float) -> tuple[float, float]:
    """Score interval of a share of rows (Wilson 1927): unlike the bootstrap's it does not shrink to nothing at 0 and 1."""
    z = _z(confidence)
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def agresti_min(better: int, worse: int, rows: int, confidence: float) -> tuple[float, float]:
    """Interval of the difference of two paired shares (Agresti & Min 2005): half a row is added to each cell, two rows in all."""
    n = rows + 2
    gain = (better - worse) / n
    half = _z(confidence) * math.sqrt(max(better + worse + 1 - n * gain * gain, 0.0)) / n
    return max(-1.0, gain - half), min(1.0, gain + half)
