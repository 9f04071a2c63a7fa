"""Search by words: candidates ranked by TF-IDF cosine with the text. What an embedding has to beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.text import AT_MOST

RANKED = 10
"""How many of the best candidates an answer keeps."""


class Lexical(Rival):
    """Word frequencies weighted by rarity in the training texts; the candidates are all right texts of the rows asked about."""

    requires: ClassVar[frozenset[str]] = frozenset({"text-in", "vector-out"})

    def fit(self, context: RivalContext) -> None:
        """Learn how rare each word is."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.task = context.task
        texts = [text for row in context.train for text in (context.task.text(row)[:AT_MOST], str(context.task.truth(row))[:AT_MOST])]
        self.words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(texts)

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Each row's ranking of all different right texts, the best first; equal ones in the order of their text."""
        if not rows:
            return []
        candidates = sorted({str(self.task.truth(row)) for row in rows})
        known = self.words.transform([one[:AT_MOST] for one in candidates])
        cosines = np.asarray((self.words.transform([self.task.text(row)[:AT_MOST] for row in rows]) @ known.T).todense())
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :RANKED]
        return [Prediction([candidates[i] for i in one], extra={"cosines": [float(row[i]) for i in one]}) for one, row in zip(best, cosines, strict=True)]
