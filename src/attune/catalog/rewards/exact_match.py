"""1 where the answer is the right one, else 0; without case, punctuation and extra spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attune.catalog.rewards import _roles
from attune.core.answers import normalised
from attune.core.contracts import Role, Row
from attune.core.keys import Keys, key
from attune.core.rewards import Reward


class ExactMatchKeys(Keys):
    """Keys of the reward."""

    normalise: bool = key(True, "compare without case, punctuation, articles and extra spaces; false: letter by letter")


class ExactMatch(Reward):
    """Equality of the whole answer with `completion`."""

    keys_type = ExactMatchKeys
    roles: ClassVar[tuple[Role, ...]] = (_roles.ANSWER,)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1 or 0."""
        form = normalised if self.keys.normalise else str.strip
        return [float(form(answer) == form(str(row["completion"]))) for row, answer in zip(rows, answers, strict=True)]
