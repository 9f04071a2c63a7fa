"""Logistic regression on word and character n-grams (TF-IDF): minutes to train, no GPU, and often hard to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.rivals import _scored
from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.keys import Keys, key
from attune.core.text import AT_MOST


class LinearKeys(Keys):
    """Keys of the rival."""

    strength: float = key(10.0, "scikit-learn's C: larger trusts the training rows more", gt=0)
    min_rows: int = key(1, "an n-gram must stand in at least this many training rows", ge=1)


class Linear(Rival):
    """Words and pairs of words, and pieces of 2 to 4 characters inside words; one classifier per label where a row may have several."""

    keys_type = LinearKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-in", "label-out"})

    def fit(self, context: RivalContext) -> None:
        """Learn from the training rows; with several labels a row, the validation rows choose the threshold."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline, make_union

        self.task, self.labels = context.task, context.signature["labels"]
        several = _scored.several(context)
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=self.keys.min_rows, token_pattern=r"(?u)\b\w+\b")
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=self.keys.min_rows)
        regression = LogisticRegression(C=self.keys.strength, max_iter=200, tol=1e-3)
        self.model: Any = make_pipeline(make_union(words, characters), OneVsRestClassifier(regression) if several else regression)
        truth = [context.task.truth(row) for row in context.train]
        self.columns = np.arange(len(self.labels))
        if several:
            held = _scored.truth_matrix(truth, self.labels)
            usable = held.any(0) & ~held.all(0)
            self.columns = np.flatnonzero(usable)
            self.rest = held.mean(0)
            self.model.fit(self._texts(context.train), held[:, usable].astype(int))
        else:
            self.model.fit(self._texts(context.train), truth)
            self.columns = np.array([self.labels.index(label) for label in self.model.classes_])
            self.rest = np.zeros(len(self.labels))
        self.threshold: float | None = None
        if several:
            right = _scored.truth_matrix([context.task.truth(row) for row in context.validation], self.labels)
            self.threshold = _scored.best_threshold(self._probabilities(context.validation), right) if len(right) else 0.5

    def _texts(self, rows: Sequence[Row]) -> list[str]:
        return [self.task.text(row)[:AT_MOST] for row in rows]

    def _probabilities(self, rows: Sequence[Row]) -> np.ndarray:
        """Probabilities [n, labels]; a label without a contrast in training keeps its training share."""
        found = np.tile(self.rest, (len(rows), 1))
        if rows:
            found[:, self.columns] = self.model.predict_proba(self._texts(rows))
        return found

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Label(s) and probabilities."""
        return _scored.answers(self._probabilities(rows), self.labels, self.threshold)
