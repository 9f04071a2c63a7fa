"""Most answers repeat their question word for word: the wrong column was taken, and the model would learn to echo."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.conversation import question_of
from attune.core.text import normalise
from attune.core.tripwires import counted, places, spread

SHARE, LEAST = 0.5, 8


class AnswerIsQuestion(Tripwire):
    """Compares each answer with the last turn before it."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where at least half of the rows echo."""
        looked = [row for row in spread(context.rows) if row.get("prompt") and row.get("completion")]
        echo = [row for row in looked if normalise(question_of(row)[-1]["content"]) == normalise(row["completion"])]
        if len(looked) >= LEAST and len(echo) > SHARE * len(looked):
            yield Alarm(f"in {counted(echo, looked, context.rows)} the answer is the question", places(echo), "name the column that holds the answers in data.columns.completion")
