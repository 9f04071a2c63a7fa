"""Overlap of runs of 1 to 6 letters of the generated texts with the right ones (chrF2 over the whole test set): for translations and inflected languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.core.answers import accepted
from attune.core.contracts import Metric, Prediction, Signature
from attune.core.figures import ratio

ORDERS, BETA = 6, 2.0


class Chrf(Metric):
    """Popović 2015 with beta 2, the counts of each order summed over rows before precision and recall are formed, as sacreBLEU does.

    Of several right texts the one counts that the answer is nearest to.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """float64 [n, 19]: per order the runs of the answer, of the right text and of both; and whether the row has a right text."""
        found = np.zeros((len(truth), 3 * ORDERS + 1))
        for row, (right, prediction) in enumerate(zip(truth, predictions, strict=True)):
            said = _runs(prediction.output)
            counts = [_counts(said, _runs(one)) for one in accepted(right)]
            if counts:
                found[row] = [*max(counts, key=lambda one: float(self._score(np.array(one)))), 1.0]
        return found

    def value(self, totals: np.ndarray) -> np.ndarray:
        """F score over the orders that occur; 0 where none does, NaN without rows."""
        totals = np.asarray(totals, dtype=np.float64)
        return np.where(totals[..., -1] > 0, self._score(totals[..., :-1]), np.nan)

    def _score(self, totals: np.ndarray) -> np.ndarray:
        counts = totals.reshape(*totals.shape[:-1], ORDERS, 3)
        said, right, both = counts[..., 0], counts[..., 1], counts[..., 2]
        used = (said > 0) & (right > 0)
        orders = used.sum(-1)
        precision = np.where(used, np.nan_to_num(ratio(both, said)), 0.0).sum(-1) / np.maximum(orders, 1)
        recall = np.where(used, np.nan_to_num(ratio(both, right)), 0.0).sum(-1) / np.maximum(orders, 1)
        weighed = BETA**2 * precision + recall
        score: np.ndarray = np.where(weighed > 0, (1 + BETA**2) * precision * recall / np.where(weighed > 0, weighed, 1.0), 0.0)
        return score


def _runs(text: Any) -> list[Counter[str]]:
    """Runs of 1 to 6 letters, without white space."""
    plain = "".join(str(text if text is not None else "").split())
    return [Counter(plain[i : i + size] for i in range(len(plain) - size + 1)) for size in range(1, ORDERS + 1)]


def _counts(said: list[Counter[str]], right: list[Counter[str]]) -> list[float]:
    found: list[float] = []
    for ours, theirs in zip(said, right, strict=True):
        found += [float(ours.total()) if theirs else 0.0, float(theirs.total()), float((ours & theirs).total())]
    return found
