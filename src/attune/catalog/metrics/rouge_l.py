"""Longest common subsequence of words of the generated text and the right one (ROUGE-L, F1), the mean over rows: for summaries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.metrics import _means
from attune.core.answers import accepted
from attune.core.contracts import Metric, Prediction, Signature

_WORD = re.compile(r"[^\W_]+")
MOST_WORDS = 4000
"""Words of a text that are compared: the work grows with the product of both lengths."""


class RougeL(Metric):
    """Sentence-level ROUGE-L with beta 1 (Lin 2004, section 3.1), words in lower case without stemming; the best of several right texts counts."""

    requires: ClassVar[frozenset[str]] = frozenset({"text-out"})

    def contributions(self, truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
        """ROUGE-L of each row."""
        return _means.rows(max((_f1(_words(one), _words(prediction.output)) for one in accepted(right)), default=0.0) for right, prediction in zip(truth, predictions, strict=True))

    def value(self, totals: np.ndarray) -> np.ndarray:
        """Mean over rows."""
        return _means.mean(totals)


def _words(text: Any) -> list[str]:
    """Runs of letters and digits of any language, in lower case."""
    return _WORD.findall(str(text if text is not None else "").lower())[:MOST_WORDS]


def _f1(right: list[str], said: list[str]) -> float:
    common = _common(right, said)
    return 2 * common / (len(right) + len(said)) if common else 0.0


def _common(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence, by bits (Hyyrö 2004, 'Bit-parallel LCS-length computation revisited', figure 2)."""
    places: dict[str, int] = {}
    for i, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(left)) - 1
    row = every
    for word in right:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(left) - row.bit_count()
