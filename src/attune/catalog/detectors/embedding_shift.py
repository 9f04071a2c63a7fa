"""Notice that the requests' texts look different from the release's test rows: a two-sample test on their embeddings.

The statistic is the squared maximum mean discrepancy with Gaussian kernels whose widths are multiples of the median distance
(Gretton et al. 2012, "A kernel two-sample test", JMLR 13), or the energy distance (Székely and Rizzo 2013), which is the same form with
minus the distance as kernel. Thousands of divisions of the same rows cost one matrix product.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from attune.core.contracts import Detector, WindowData
from attune.core.keys import Keys, key
from attune.core.randomness import generator

_AT_ONCE = 2048
"""Divisions per matrix product."""
_USUAL = 0.05
"""Share of the reference that counts as unfamiliar, by definition of the word here."""
_COMMON = 0.2
"""A word in more of the reference's texts than this says little about what they are about."""
_WORD = re.compile(r"[^\W\d_]{3,}")


class EmbeddingShiftKeys(Keys):
    """Keys of the detector."""

    distance: Literal["mmd", "energy"] = key("mmd", "maximum mean discrepancy with Gaussian kernels, or energy distance (no widths to choose)")
    widths: list[float] = key([0.5, 1.0, 2.0], "kernel widths as multiples of the median distance; their kernels are averaged", min_length=1)
    max_rows: int = key(1000, "larger windows and references are thinned to this many rows", ge=100)
    examples: int = key(5, "texts shown with an alarm", ge=1)
    words: int = key(6, "words shown that grew most", ge=0)


class EmbeddingShift(Detector):
    """Two-sample test on embeddings."""

    keys_type = EmbeddingShiftKeys
    requires = frozenset({"embeds"})

    def usable(self, window: WindowData) -> np.ndarray:
        """Rows with a finite embedding, at most `max_rows` of them (which ones depends on their number only)."""
        if not window.embeddings.size:
            return np.zeros(0, dtype=np.int64)
        index = np.flatnonzero(np.isfinite(window.embeddings).all(1))
        if len(index) > self.keys.max_rows:
            kept = generator(0, "embedding_shift", len(index)).permutation(len(index))[: self.keys.max_rows]
            index = np.sort(index[kept])
        return index

    def statistic(self, reference: WindowData, window: WindowData) -> float:
        """Squared discrepancy of the two samples, unbiased: about zero without a shift."""
        rows = reference.joined(window)
        return float(self.statistics(rows, (np.arange(len(rows)) >= len(reference))[None, :])[0])

    def statistics(self, rows: WindowData, chosen: np.ndarray) -> np.ndarray:
        """The unbiased estimate (Gretton et al., lemma 6) of many divisions; the kernel is computed once, from all rows together."""
        kernel = self._kernel(rows.embeddings)
        size = len(kernel)
        kernel -= kernel.sum(dtype=np.float64) / (size * (size - 1))  # a constant changes nothing and costs digits
        np.fill_diagonal(kernel, 0)
        by_row = kernel.sum(1, dtype=np.float64)
        found = np.empty(len(chosen))
        for begin in range(0, len(chosen), _AT_ONCE):
            part = chosen[begin : begin + _AT_ONCE].T.astype(np.float32)
            m = part.sum(0, dtype=np.float64)
            n = size - m
            inside = np.einsum("nb,nb->b", kernel @ part, part, dtype=np.float64)
            touched = by_row @ part
            outside = by_row.sum() - 2 * touched + inside
            found[begin : begin + _AT_ONCE] = inside / (m * (m - 1)) + outside / (n * (n - 1)) - 2 * (touched - inside) / (n * m)
        return found

    def _kernel(self, embeddings: np.ndarray) -> np.ndarray:
        """float32 [n, n] with an empty diagonal, so that no row speaks for itself."""
        vectors = embeddings.astype(np.float32)
        vectors = vectors - vectors.mean(0)
        norms = np.einsum("nd,nd->n", vectors, vectors)
        squared = np.maximum(norms[:, None] + norms[None, :] - 2 * vectors @ vectors.T, 0)
        if self.keys.distance == "energy":
            kernel: np.ndarray = -np.sqrt(squared)
        else:
            median = float(np.median(squared[np.triu_indices(len(squared), 1)])) or 1.0
            kernel = np.asarray(np.mean([np.exp(squared / (-2 * median * width**2)) for width in self.keys.widths], axis=0, dtype=np.float32))
        np.fill_diagonal(kernel, 0)
        return kernel

    def explain(self, reference: WindowData, window: WindowData) -> dict[str, Any]:
        """The share of unfamiliar rows (effect, 0 to 1), the most unfamiliar texts, and the words that grew.

        A row is unfamiliar when the witness function (mean kernel to the window minus mean kernel to the reference, itself left out)
        is higher there than at 95 % of the reference rows.
        """
        kernel = self._kernel(np.concatenate([reference.embeddings, window.embeddings]))
        n, m = len(reference), len(window)
        to_reference, to_window = kernel[:, :n].sum(1), kernel[:, n:].sum(1)
        at_reference = to_window[:n] / m - to_reference[:n] / max(n - 1, 1)
        at_window = to_window[n:] / max(m - 1, 1) - to_reference[n:] / n
        unfamiliar = float((at_window > np.quantile(at_reference, 1 - _USUAL)).mean())
        words = _grown_words(reference.texts, window.texts, self.keys.words)
        summary = f"The texts look different from the release's test rows: {unfamiliar:.0%} of {m} rows are of a kind that only {_USUAL:.0%} of the test rows are."
        if words:
            summary += " Words that grew: " + ", ".join(words) + "."
        examples = list(dict.fromkeys(window.texts[i] for i in np.argsort(-at_window, kind="stable")))[: self.keys.examples]
        return {"summary": summary, "effect": unfamiliar, "examples": examples, "words": words}


def _grown_words(before: Sequence[str], after: Sequence[str], count: int) -> list[str]:
    """Words in clearly more texts than before: z of the log-odds with both sides as prior (Monroe, Colaresi and Quinn 2008, section 3.3)."""
    old, new = (Counter(word for text in texts for word in set(_WORD.findall(text.lower()))) for texts in (before, after))
    both = len(before) + len(after)
    scores = {}
    for word in new:
        prior = old[word] + new[word]
        with_after, with_before = new[word] + prior, old[word] + prior
        without_after, without_before = len(after) + both - with_after, len(before) + both - with_before
        if new[word] >= 3 and old[word] <= _COMMON * len(before) and without_after > 0 and without_before > 0:
            odds = np.log(with_after / without_after) - np.log(with_before / without_before)
            scores[word] = float(odds / np.sqrt(1 / with_after + 1 / with_before))
    return sorted((word for word in scores if scores[word] > 1.0), key=lambda word: (-scores[word], word))[:count]
