"""What the looks of a run at its validation rows say of it, with less flattery than the best one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from attune.core.contracts import Figure, Metric, Row
from attune.core.randomness import generator
from attune.core.resampling import groups_of

if TYPE_CHECKING:
    import torch

ROWS, BEST = "looks.rows", "looks.best"
"""Their names among the tensors of a checkpoint."""


class Looks:
    """What each validation row adds to the main metric, by the look that did best on the other half of the rows.

    The best of a run's looks is best partly by luck on these very rows; so methods are compared by looks that were chosen without the rows that
    judge them (Varma and Simon 2006, Bias in error estimation when using cross-validation for model selection). Equal looks: the earlier one.
    Learning rates and early stopping have still been chosen by all rows.

    Args:
        rows: the validation rows; those of one group lie in one half.
        last: the last look counts, whatever it says, because the last step is kept: nothing is chosen then, and nothing flatters.
    """

    def __init__(self, metric: Metric, rows: Sequence[Row], seed: int, *, last: bool = False) -> None:
        self.metric, self.last = metric, last
        groups = np.asarray(groups_of(rows) or range(len(rows)))
        self.half = (generator(seed, "halves of the validation rows").permutation(groups.max() + 1) % 2)[groups]
        """0 or 1 for each row."""
        self.rows: np.ndarray | None = None
        """float64 [n, k]; None before the first look."""
        self._best: np.ndarray | None = None
        """float64 [2]: for each half the value, on the other half, of the look that judges it; larger is better."""

    def see(self, rows: np.ndarray) -> None:
        """One more look: contributions [n, k] of all rows."""
        found = np.array([self._value(rows[self.half != half]) for half in (0, 1)])
        if self.rows is None or self._best is None or self.last:
            self.rows, self._best = rows.astype(np.float64), found
            return
        for half in (0, 1):
            if found[half] > self._best[half]:
                self.rows[self.half == half] = rows[self.half == half]
                self._best[half] = found[half]

    def _value(self, rows: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            value = float(self.metric.value(rows.sum(0)))
        return -math.inf if math.isnan(value) else value if self.metric.higher_is_better else -value

    @property
    def halves(self) -> np.ndarray | None:
        """float64 [n, 2k] for `Halves`; None before the first look."""
        return None if self.rows is None else np.hstack([np.where((self.half == half)[:, None], self.rows, 0.0) for half in (0, 1)])

    def state(self) -> dict[str, torch.Tensor]:
        """What `load_state` goes on from; counts, which most metrics add up, take a byte each."""
        import torch

        if self.rows is None or self._best is None:
            return {}
        with np.errstate(invalid="ignore"):
            small = self.rows.astype(np.int8)
        return {ROWS: torch.from_numpy(small if np.array_equal(small, self.rows) else self.rows), BEST: torch.from_numpy(self._best)}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Back to the moment of `state`."""
        if ROWS in tensors:
            self.rows, self._best = tensors[ROWS].numpy().astype(np.float64), tensors[BEST].numpy().copy()


class Halves(Figure):
    """The mean of a metric's values on two halves, whose sums stand side by side, [..., 2k]: answers at two looks are never ranked among each other.
    The value of one half where the other has none."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.higher_is_better = metric.higher_is_better  # type: ignore[misc]

    def value(self, totals: np.ndarray) -> np.ndarray:
        """float64 [...]."""
        with np.errstate(all="ignore"):
            values = np.stack([np.asarray(self.metric.value(part), dtype=np.float64) for part in np.split(totals, 2, axis=-1)])
            known = ~np.isnan(values)
            return np.where(known, values, 0.0).sum(0) / known.sum(0)
