"""Look it up: the answers of the most similar training rows, by the untouched base's vectors or by words. No training at all, and it updates by adding rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from attune.catalog.rivals import _scored
from attune.catalog.rivals._search import Search
from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.errors import RecipeError
from attune.core.keys import Keys, key

AT_ONCE = 1024
SMOOTH = 0.02
"""Share of every vote that goes to the label frequencies, so that no label gets probability 0."""


class RetrievalKeys(Keys):
    """Keys of the rival."""

    neighbours: list[int] = key([1, 3, 5, 10, 20, 40], "numbers of similar rows to choose from; the validation rows choose")
    by: Literal["words", "vectors", "both"] = key("vectors", "how the row whose text is taken is found: BM25 on words, the base's vectors, or both ranks together; labels are voted by vectors alone")


class Retrieval(Rival):
    """Neighbours vote, nearer ones more (Dudani 1976's idea with 1/distance); texts are taken from the one nearest row."""

    keys_type = RetrievalKeys
    requires: ClassVar[frozenset[str]] = frozenset({"text-in", "embeds"})

    def fit(self, context: RivalContext) -> None:
        """Embed the training rows; choose how many neighbours vote by accuracy (or micro F1) on the validation rows."""
        self.context, by = context, self.keys.by
        texts, self.truth = [context.task.text(row) for row in context.train], [context.task.truth(row) for row in context.train]
        self.search = Search(texts, by, context.embed) if by != "vectors" else None
        if "label-out" in context.task.traits and self.search is not None:
            raise RecipeError(f"labels are voted by vectors, not by {by}", place="grade.rivals: retrieval.by", fix="leave it out")
        if self.search is None:
            self.vectors = context.embed(texts)
        if "label-out" not in context.task.traits:
            if "text-out" not in context.task.traits:
                raise _scored.cannot(self, context)
            return
        self.labels = context.signature["labels"]
        self.held = _scored.truth_matrix(self.truth, self.labels).astype(np.float64)
        self.threshold: float | None = None
        choices = [k for k in self.keys.neighbours if 1 <= k <= len(self.vectors)] or [len(self.vectors)]
        right = _scored.truth_matrix([context.task.truth(row) for row in context.validation], self.labels)
        if not right.any():
            self.k, self.threshold = choices[len(choices) // 2], 0.5 if _scored.several(context) else None
            return
        votes = {k: self._votes(context.validation, k) for k in choices}
        if _scored.several(context):
            thresholds = {k: _scored.best_threshold(found, right) for k, found in votes.items()}
            self.k = max(choices, key=lambda k: (_micro_f1(votes[k] >= thresholds[k], right), k))
            self.threshold = thresholds[self.k]
        else:
            self.k = max(choices, key=lambda k: (right[np.arange(len(right)), votes[k].argmax(1)].mean(), k))

    def _nearest(self, rows: Sequence[Row], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Places [n, k] of the most similar training rows, nearest first, and their cosines [n, k]."""
        asked = self.context.embed([self.context.task.text(row) for row in rows])
        places, cosines = [], []
        for begin in range(0, len(rows), AT_ONCE):
            found = asked[begin : begin + AT_ONCE] @ self.vectors.T
            best = np.argsort(-found, axis=1, kind="stable")[:, :k]
            places.append(best)
            cosines.append(np.take_along_axis(found, best, 1))
        return np.concatenate(places), np.concatenate(cosines)

    def _votes(self, rows: Sequence[Row], k: int) -> np.ndarray:
        """Weighted share of the neighbours that have each label, [n, labels]."""
        places, cosines = self._nearest(rows, k)
        weights = 1 / (1 - np.clip(cosines.astype(np.float64), -1, 1) + 0.01)
        weights /= weights.sum(1, keepdims=True)
        shares: np.ndarray = (1 - SMOOTH) * np.einsum("nk,nkl->nl", weights, self.held[places]) + SMOOTH * self.held.mean(0)
        return shares

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """The neighbours' vote, or the nearest row's text; by vectors with the cosine as confidence."""
        if not rows:
            return []
        if self.search is not None:
            return [Prediction(str(self.truth[place])) for (place,) in self.search.best([self.context.task.text(row) for row in rows], 1)]
        if "label-out" in self.context.task.traits:
            return _scored.answers(self._votes(rows, self.k), self.labels, self.threshold)
        places, cosines = self._nearest(rows, 1)
        return [Prediction(str(self.truth[place]), confidence=float(np.clip(cosine, 0, 1))) for place, cosine in zip(places[:, 0], cosines[:, 0], strict=True)]


def _micro_f1(said: np.ndarray, right: np.ndarray) -> float:
    return float(2 * (said & right).sum() / max(said.sum() + right.sum(), 1))
