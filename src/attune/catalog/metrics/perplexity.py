"""How surprised the model is by the right answers: exp of the mean negative log-likelihood of their tokens. Only between models with one tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.core.contracts import Metric, Prediction, Signature
from attune.core.figures import Perplexity as Figure
from attune.core.figures import nats


class Perplexity(Metric):
    """Per token over all rows, each answer's end token included (Jelinek et al. 1977); NaN for a contestant that is no language model."""

    requires: ClassVar[frozenset[str]] = frozenset({"language-model"})
    higher_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = (1.0, math.inf)
    of_answers: ClassVar[bool] = False
    reads_outputs: ClassVar[bool] = False

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """float64 [n, 2]: nats and tokens of the right answer."""
        return nats([(one.extra.get("nll", math.nan), one.extra.get("nll_tokens", math.nan)) for one in predictions])

    def value(self, totals: np.ndarray) -> np.ndarray:
        """exp of nats per token."""
        return Figure().value(totals)
