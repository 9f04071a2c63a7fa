"""The reward is the same for right, wrong and empty answers, or no number: without differences there is nothing to learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.tripwires import places, spread

ROWS = 16


class RewardIsFlat(Tripwire):
    """Asks the objective what the right answer, another row's answer and an empty one are worth."""

    requires = frozenset({"text-out"})

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm for values that are no numbers, or one for rewards that never differ."""
        rows: list[Row] = spread(context.rows, ROWS)
        right = [str(row.get("completion") or "") for row in rows]
        answers = [right, right[1:] + right[:1], ["" for _ in rows], [f"{one} {one}" for one in right]]
        found = []
        for one in answers:
            worth = context.objective.rewards(context.specialist, rows, one)
            if worth is None:
                return
            found.append([float(value) for value in worth])
        if any(not math.isfinite(value) for values in found for value in values):
            yield Alarm("the reward of some answers is no number", places(rows), "mend the reward function: it must give a finite number for any text, the empty one too")
        elif len({value for values in found for value in values}) == 1:
            fix = "check that the reward reads the right column, in the form in which answers are written"
            yield Alarm(f"right answers, wrong ones and empty ones are all worth {found[0][0]:g}", places(rows), fix)
