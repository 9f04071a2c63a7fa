"""Prefers the longer of two answers. People tend to, so a model that does not beat this may have learned length alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attune.core.contracts import Prediction, Rival, RivalContext, Row
from attune.core.errors import PlugError


class LongerAnswer(Rival):
    """Length in characters; equal lengths are a tie. It writes nothing itself."""

    requires: ClassVar[frozenset[str]] = frozenset({"prefers"})

    def fit(self, context: RivalContext) -> None:
        """Nothing is learned; rows without a second answer are refused."""
        if not any(row.get("rejected") for row in context.train):
            raise PlugError(f"rival '{self.name}' compares two answers, and the rows have one", place="grade.rivals", fix="leave it out, or give rows with a rejected answer")
        self.ranks = "score-out" in context.task.traits

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """The longer answer, and by how many characters it is ahead as `margin`; None as output of a task that writes, since it writes nothing."""
        found = []
        for row in rows:
            better, worse = str(row["completion"]), str(row["rejected"])
            margin = float(len(better) - len(worse))
            preferred = max(better, worse, key=lambda text: (len(text), text))
            found.append(Prediction(preferred if self.ranks else None, extra={"margin": margin}))
        return found
