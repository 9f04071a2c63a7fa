"""Every row has the same answer: the model would learn to say that one thing, and the loss would look splendid."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.text import normalise
from attune.core.tripwires import places

LEAST = 12


class SameAnswer(Tripwire):
    """Counts different answers; few rows say nothing."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where there is only one answer."""
        answers = {normalise(row["completion"][:2000]) for row in context.rows if row.get("completion")}
        if len(context.rows) >= LEAST and len(answers) == 1:
            yield Alarm(f"all {len(context.rows):,} rows have the same answer, '{next(iter(answers))[:60]}'", places(context.rows), "name the column that holds the answers in data.columns.completion")
