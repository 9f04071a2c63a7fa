"""Always the same number: the mean of the training rows."""

from __future__ import annotations

from collections.abc import Sequence

from attune.core.contracts import Prediction, Rival, RivalContext, Row


class MeanAnswer(Rival):
    """What does not beat this has learned nothing."""

    requires = frozenset({"number-out"})

    def fit(self, context: RivalContext) -> None:
        """Average the training rows' numbers."""
        truth = [float(context.task.truth(row)) for row in context.train]
        self.mean = sum(truth) / len(truth)

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """The mean, for every row."""
        return [Prediction(self.mean) for _ in rows]
