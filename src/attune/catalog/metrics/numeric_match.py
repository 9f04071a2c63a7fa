"""Share of answers whose last number is the last number of the right answer: for sums with the way to them written down (GSM8K)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.answers import accepted, last_number
from attune.core.contracts import Metric, Prediction, Row, Signature
from attune.core.keys import Keys, key


class NumericMatchKeys(Keys):
    """Keys of the metric."""

    tolerance: float = key(0.0, "largest difference that counts as equal, as a share of the right number", ge=0, lt=1)


class NumericMatch(Metric):
    """Numbers as people write them: 1,234.50, -3, $7, 1/2; an answer without a number is wrong."""

    keys_type = NumericMatchKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where the numbers agree; a row without a right number counts for nothing."""
        found = np.zeros((len(truth), 2))
        for row, (right, prediction) in enumerate(zip(truth, predictions, strict=True)):
            wanted = [number for number in map(last_number, accepted(right)) if number is not None]
            said = last_number(str(prediction.output))
            if wanted:
                found[row] = (float(said is not None and any(abs(said - one) <= Fraction(str(self.keys.tolerance)) * abs(one) for one in wanted)), 1.0)
        return found

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Share of the rows that have a right number."""
        return _means.mean(totals)

    def example(self) -> tuple[Row, Any, Any] | None:
        """The right number, written otherwise, and another one."""
        return {"completion": "2 + 1,198 = 1200\n#### 1,200"}, "It costs $1200.00.", "1200 - 1 = 1199"
