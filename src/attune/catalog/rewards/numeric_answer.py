"""1 where the last number of the answer is the last number of the right one, else 0: for sums and word problems."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar

from attune.catalog.rewards import _roles
from attune.core.answers import last_number
from attune.core.contracts import Role, Row
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.rewards import Reward


class NumericAnswerKeys(Keys):
    """Keys of the reward."""

    tolerance: float = key(1e-6, "largest relative difference of numbers that count as equal", ge=0)


class NumericAnswer(Reward):
    """Compares numbers, so that 1,000 and 1000.0 and 2000/2 are equal."""

    keys_type = NumericAnswerKeys
    roles: ClassVar[tuple[Role, ...]] = (_roles.ANSWER,)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1 or 0; raises DataError where a right answer holds no number."""
        found, most = [], Fraction(str(self.keys.tolerance))
        for row, answer in zip(rows, answers, strict=True):
            right, said = last_number(str(row["completion"])), last_number(answer)
            if right is None:
                raise DataError("the right answer holds no number", place=str(row.get("place") or row.get("row_id")), fix="write the number into it, or use another reward")
            found.append(float(said is not None and abs(said - right) <= most * max(abs(said), abs(right), Fraction(1))))
        return found
