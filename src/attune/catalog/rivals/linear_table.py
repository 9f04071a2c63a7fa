"""Logistic regression on the columns of a table: names as 0/1 columns, numbers scaled, a column of its own for what is missing. Hard to beat on few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from attune.catalog.rivals import _scored
from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.keys import Keys, key
from attune.core.tables import CATEGORY, matrix


class LinearTableKeys(Keys):
    """Keys of the rival."""

    strength: float = key(1.0, "scikit-learn's C: larger trusts the training rows more", gt=0)


class LinearTable(Rival):
    """One-hot categories and standardised numbers; a missing number counts as the mean and raises a 0/1 column."""

    keys_type = LinearTableKeys
    requires: ClassVar[frozenset[str]] = frozenset({"table-in", "label-out"})

    def fit(self, context: RivalContext) -> None:
        """Learn from the training rows."""
        from sklearn.linear_model import LogisticRegression

        self.labels, self.features = context.signature["labels"], context.signature["features"]
        table = self._table(context.train)
        self.mean = np.array([column[np.isfinite(column)].mean() if np.isfinite(column).any() else 0.0 for column in table.T])
        self.spread = np.array([max(float(column[np.isfinite(column)].std()), 1e-12) if np.isfinite(column).any() else 1.0 for column in table.T])
        self.model: Any = LogisticRegression(C=self.keys.strength, max_iter=2000)
        self.model.fit(self._inputs(table), [context.task.truth(row) for row in context.train])
        self.places = [self.labels.index(label) for label in self.model.classes_]

    def _table(self, rows: Sequence[Row]) -> np.ndarray:
        return matrix(self.features, [row["features"] for row in rows])

    def _inputs(self, table: np.ndarray) -> np.ndarray:
        """float64 [rows, inputs]: what the regression reads."""
        parts = []
        for place, feature in enumerate(self.features):
            column = table[:, place]
            if feature["kind"] == CATEGORY:
                parts.append((column[:, None] == np.arange(len(feature["categories"]))[None, :]).astype(np.float64))
            else:
                parts.append(np.where(np.isnan(column), 0.0, (column - self.mean[place]) / self.spread[place])[:, None])
                parts.append(np.isnan(column).astype(np.float64)[:, None])
        return np.concatenate(parts, axis=1)

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """The likeliest label, with probabilities; a label that no training row has gets none."""
        if not rows:
            return []
        found = np.zeros((len(rows), len(self.labels)))
        found[:, self.places] = self.model.predict_proba(self._inputs(self._table(rows)))
        return _scored.answers(found, self.labels, None)
