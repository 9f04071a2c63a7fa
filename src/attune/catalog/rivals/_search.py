"""Finding the most similar of many texts: by their words (BM25), by their vectors, or by both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from attune.core.text import AT_MOST

By = Literal["words", "vectors", "both"]
K1, B = 1.2, 0.75
FUSE = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke & Büttcher 2009)."""
AT_ONCE = 256


class Search:
    """An index of texts.

    Args:
        texts: what is searched.
        by: words, vectors, or both (ranks fused).
        embed: vectors of texts, float32 [n, d] of length 1; not called for words alone.
    """

    def __init__(self, texts: Sequence[str], by: By, embed: Callable[[Sequence[str]], np.ndarray]) -> None:
        self.size, self.embed = len(texts), embed
        self.words = _Bm25(texts) if by in ("words", "both") else None
        self.vectors = embed(texts) if by in ("vectors", "both") else None

    def best(self, asked: Sequence[str], number: int) -> list[list[int]]:
        """Places of the `number` most similar texts for each text asked about, the most similar first; ties in order of place."""
        found: list[list[int]] = []
        for begin in range(0, len(asked), AT_ONCE):
            part = asked[begin : begin + AT_ONCE]
            scores = [*([self.words.scores(part)] if self.words else []), *([self.embed(part) @ self.vectors.T] if self.vectors is not None else [])]
            ranked = scores[0] if len(scores) == 1 else sum(1 / (FUSE + 1 + np.argsort(np.argsort(-one, axis=1, kind="stable"), axis=1)) for one in scores)
            found += np.argsort(-np.asarray(ranked), axis=1, kind="stable")[:, :number].tolist()
        return found


class _Bm25:
    """Okapi BM25 (Robertson & Zaragoza 2009, equation 3.15), with an idf that is never negative (ln of 1 plus the odds)."""

    def __init__(self, texts: Sequence[str]) -> None:
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction.text import CountVectorizer

        self.counter = CountVectorizer(token_pattern=r"(?u)\b\w+\b")
        self.weights: Any = None
        if not any(any(letter.isalnum() for letter in text) for text in texts):
            return  # nothing that could be found by a word
        counts = self.counter.fit_transform([text[:AT_MOST] for text in texts]).tocsr().astype(np.float64)
        lengths = np.asarray(counts.sum(1)).ravel()
        there = np.bincount(counts.indices, minlength=counts.shape[1])
        rarity = np.log(1 + (len(texts) - there + 0.5) / (there + 0.5))
        damp = K1 * (1 - B + B * lengths / lengths.mean())
        rows = np.repeat(np.arange(len(texts)), np.diff(counts.indptr))
        data = rarity[counts.indices] * counts.data * (K1 + 1) / (counts.data + damp[rows])
        self.weights = csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
        self.number = len(texts)

    def scores(self, asked: Sequence[str]) -> np.ndarray:
        """float64 [asked, texts]; a word counts as often as it is asked for."""
        if self.weights is None:
            return np.zeros((len(asked), 1))
        questions = self.counter.transform([text[:AT_MOST] for text in asked])
        return np.asarray((questions @ self.weights.T).todense())
