"""Always the same answer: the most frequent label (or text) of the training rows. What does not beat this has learned nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attune.catalog.rivals import _scored
from attune.core.contracts import Prediction, Rival, RivalContext, Row


class Majority(Rival):
    """Label frequencies as probabilities; for texts the most frequent one, ties by the alphabet."""

    def fit(self, context: RivalContext) -> None:
        """Count the training rows' answers."""
        truth = [context.task.truth(row) for row in context.train]
        if "label-out" in context.task.traits:
            labels = context.signature["labels"]
            shares = _scored.truth_matrix(truth, labels).mean(0, keepdims=True)
            self.answer = _scored.answers(shares, labels, 0.5 if _scored.several(context) else None)[0]
        elif "text-out" in context.task.traits:
            text, count = min(Counter(map(str, truth)).items(), key=lambda pair: (-pair[1], pair[0]))
            self.answer = Prediction(text, confidence=count / len(truth))
        else:
            raise _scored.cannot(self, context)

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """The one answer, for every row."""
        return [self.answer for _ in rows]
