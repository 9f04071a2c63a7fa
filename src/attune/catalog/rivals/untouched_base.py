"""The base model as it came: labels by nearness of their names to the text, texts by generating, vectors by embedding, tables by the general model's trees. What tuning has to add to."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from attune.catalog.rivals import _scored
from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.keys import Keys, key

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)


class UntouchedBaseKeys(Keys):
    """Keys of the rival."""

    phrase: str = key("{label}", "text that stands for a label, for example 'This is about {label}.'")


class UntouchedBase(Rival):
    """Zero-shot: no training row is used. The validation rows only set how sure it sounds, and the threshold for several labels a row."""

    keys_type = UntouchedBaseKeys

    def fit(self, context: RivalContext) -> None:
        """Embed the labels' names, or load the base to answer by itself."""
        self.context = context
        self.zero_shot = {"label-out", "text-in"} <= context.task.traits
        if not self.zero_shot:
            if not {"text-out", "vector-out", "mask-out", "score-out", "table-in"} & context.task.traits:
                raise _scored.cannot(self, context)
            return
        if "embeds" not in context.task.traits:
            raise _scored.cannot(self, context)
        self.labels = context.signature["labels"]
        self.names = context.embed([self.keys.phrase.replace("{label}", words(label)) for label in self.labels])
        self.threshold: float | None = None
        truth = _scored.truth_matrix([context.task.truth(row) for row in context.validation], self.labels)
        cosines = self._cosines(context.validation)
        if _scored.several(context):
            self.middle = _scored.best_threshold(cosines, truth, otherwise=float(np.median(self.names @ self.names.T)))
            self.threshold = 0.5
            self.temperature = 0.05
        else:
            self.temperature = min(TEMPERATURES, key=lambda t: _surprise(_softmax(cosines / t), truth)) if truth.any() else 0.05

    def _cosines(self, rows: Sequence[Row]) -> np.ndarray:
        """Cosine of each row's text with each label's name, [n, labels]."""
        vectors = self.context.embed([self.context.task.text(row) for row in rows])
        return vectors @ self.names.T if len(rows) else np.zeros((0, len(self.labels)))

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answers of the untouched base."""
        if not self.zero_shot:
            return self.context.untuned().examine(rows)
        cosines = self._cosines(rows).astype(np.float64)
        if self.threshold is not None:
            return _scored.answers(1 / (1 + np.exp((self.middle - cosines) / self.temperature)), self.labels, self.threshold)
        return _scored.answers(_softmax(cosines / self.temperature), self.labels, None)


def words(label: str) -> str:
    """A label's name as a person would say it: 'card_arrival' and 'cardArrival' become 'card arrival'."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return re.sub(r"[\s_\-/.:?]+", " ", apart).strip().lower() or label


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True)) if len(logits) else logits
    probabilities: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return probabilities


def _surprise(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log of the right label's probability over rows whose label is known."""
    return float(-np.log(np.maximum(probabilities[truth], 1e-15)).mean())
