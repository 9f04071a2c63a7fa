"""Share of rows whose generated text equals the right one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.answers import accepted, normalised
from attune.core.contracts import Metric, Prediction, Signature
from attune.core.keys import Keys, key


class ExactMatchKeys(Keys):
    """Keys of the metric."""

    normalise: bool = key(True, "compare without case, punctuation, articles and extra spaces (as SQuAD does); false: letter by letter")


class ExactMatch(Metric):
    """Equal texts over all rows; where a row has several right texts, any of them counts."""

    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})
    keys_type = ExactMatchKeys

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """1 where the text is one of the right ones."""
        form = normalised if self.keys.normalise else str
        return _means.rows(form(prediction.output) in {form(one) for one in accepted(right)} for right, prediction in zip(truth, predictions, strict=True))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)
