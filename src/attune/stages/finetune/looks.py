"""What the looks of a run at its validation rows say of it, without the flattery of the best one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from attune.core.contracts import Metric
from attune.core.randomness import generator

if TYPE_CHECKING:
    import torch

ROWS, BEST = "looks.rows", "looks.best"
"""Their names among the tensors of a checkpoint."""


class Looks:
    """What each validation row adds to the main metric, by the look that the other half of the rows would have kept.

    The best of a run's looks is best partly by luck on these very rows. No row has a say here in which look it is judged by, so that methods are
    compared as they are (a nested selection: Varma and Simon 2006, Bias in error estimation when using cross-validation for model selection).

    Args:
        rows: number of validation rows.
        last: the last look counts, whatever it says (`train.keep: last`): nothing is chosen then, and nothing flatters.
    """

    def __init__(self, metric: Metric, rows: int, seed: int, *, last: bool = False) -> None:
        self.metric, self.last = metric, last
        self._half = generator(seed, "halves of the validation rows").permutation(rows) % 2
        self.rows: np.ndarray | None = None
        """float64 [n, k]; None before the first look."""
        self._best: np.ndarray | None = None
        """float64 [2, 2]: per half, value (larger is better) and negative validation loss of the look that it is judged by, on the other half."""

    def see(self, rows: np.ndarray, loss: float) -> None:
        """One more look: contributions [n, k] of all rows, and the validation loss, which decides between equal values."""
        found = np.array([[self._value(rows[self._half != half]), -loss if math.isfinite(loss) else -math.inf] for half in (0, 1)])
        if self.rows is None or self._best is None or self.last:
            self.rows, self._best = rows.astype(np.float64), found
            return
        for half in (0, 1):
            if tuple(found[half]) > tuple(self._best[half]):
                self.rows[self._half == half] = rows[self._half == half]
                self._best[half] = found[half]

    def _value(self, rows: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            value = float(self.metric.value(rows.sum(0)))
        return -math.inf if math.isnan(value) else value if self.metric.higher_is_better else -value

    def state(self) -> dict[str, torch.Tensor]:
        """What `load_state` goes on from."""
        import torch

        if self.rows is None or self._best is None:
            return {}
        return {ROWS: torch.from_numpy(self.rows), BEST: torch.from_numpy(self._best)}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Back to the moment of `state`."""
        if ROWS in tensors:
            self.rows, self._best = tensors[ROWS].numpy().copy(), tensors[BEST].numpy().copy()
