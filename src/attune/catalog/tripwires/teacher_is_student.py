"""The teacher of a distillation is the model itself: there is nothing to learn from it."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError
from attune.core.tripwires import spread

ROWS = 8
SAME = 1e-5
"""Nats: closer are only two ways of computing the same."""


class TeacherIsStudent(Tripwire):
    """Asks objectives whose reference must differ from the start for the gap before the first step."""

    requires = frozenset({"text-out"})
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where there is no gap at all."""
        if context.objective.reference != "start":
            return
        gap = context.objective.reference_gap(context.specialist, spread(context.examples, ROWS))
        if gap is not None and gap < SAME:
            yield Alarm("the teacher gives the very probabilities of the untouched model", "objective", "name another, larger model as the teacher")
