"""The reward is the same for right, wrong and empty answers and for the model's own, or no number: without differences there is nothing to learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.tripwires import places, spread

ROWS = 8
GROUPS = 4
"""Prompts to which the model tries answers of its own."""
FIX = "check that the reward reads the right column, in the form in which answers are written"


class RewardIsFlat(Tripwire):
    """Asks the objective what right answers, other rows' answers, empty ones and the model's own are worth."""

    requires = frozenset({"text-out"})

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm for values that are no numbers, or for rewards that never differ; told only, where just the model's own are all alike."""
        rows: list[Row] = spread(context.rows, ROWS)
        right = [str(row.get("completion") or "") for row in rows]
        known = any(right)
        asked = [context.specialist.task.text(row) for row in rows]
        found: list[list[float]] = []
        for one in [right, right[1:] + right[:1], [f"{text} {text}" for text in right], [""] * len(rows)] if known else [asked, [""] * len(rows)]:
            worth = context.objective.rewards(context.specialist, rows, one)
            if worth is None:
                return
            found.append([float(value) for value in worth])
        wrong = [row for number, row in enumerate(rows) if not all(math.isfinite(values[number]) for values in found)]
        if wrong:
            yield Alarm("the reward of some answers is no number", places(wrong), "mend the reward function: it must give a finite number for any text, the empty one too")
            return
        own = context.objective.own_rewards(context.specialist, spread(context.examples, GROUPS))
        flat = len({value for values in found for value in values}) == 1
        alike = own is not None and all(len(set(group)) < 2 for group in own)
        tried = f"{sum(map(len, own)):,} answers of the model's own to {len(own):,} prompts" if own is not None else ""
        if flat and (own is None or alike):
            said = "right answers, wrong ones and empty ones" if known else "empty answers and the questions themselves"
            yield Alarm(f"{said} are all worth {found[0][0]:g}" + (f", and so are {tried}, group by group" if own is not None else ""), places(rows), FIX)
        elif alike:
            fix = "raise objective.group or objective.temperature, start from a model that is right now and then (sft first), or add a reward that pays for a part"
            yield Alarm(f"of {tried}, none is worth more than the others of its group: nothing is learned until one is", places(rows), fix, blocks=False)
