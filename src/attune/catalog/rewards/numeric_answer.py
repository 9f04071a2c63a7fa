"""1 where the last number of the answer is the last number of the right one, else 0: for sums and word problems."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import ClassVar

from attune.catalog.rewards import _roles
from attune.core.contracts import Role, Row
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.rewards import Reward

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?(?:/[1-9]\d*)?")


class NumericAnswerKeys(Keys):
    """Keys of the reward."""

    tolerance: float = key(1e-6, "largest relative difference of numbers that count as equal", ge=0)


class NumericAnswer(Reward):
    """Compares numbers, so that 1,000 and 1000.0 and 2000/2 are equal."""

    keys_type = NumericAnswerKeys
    roles: ClassVar[tuple[Role, ...]] = (_roles.ANSWER,)

    def score(self, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        """1 or 0; raises DataError where a right answer holds no number."""
        found = []
        for row, answer in zip(rows, answers, strict=True):
            right, said = _last(str(row["completion"])), _last(answer)
            if right is None:
                raise DataError("the right answer holds no number", place=str(row.get("place") or row.get("row_id")), fix="write the number into it, or use another reward")
            found.append(float(said is not None and math.isclose(said, right, rel_tol=self.keys.tolerance, abs_tol=self.keys.tolerance)))
        return found


def _last(text: str) -> float | None:
    """The last number in a text."""
    numbers = [match.group() for match in NUMBER.finditer(text) if any(letter.isdigit() for letter in match.group())]
    if not numbers:
        return None
    whole, _, part = numbers[-1].replace(",", "").partition("/")
    value = float(whole) / float(part or 1)
    return value if math.isfinite(value) else None
