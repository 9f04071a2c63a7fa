"""The reference or teacher that the model is compared with is the model itself: every comparison is zero, and nothing is learned."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError
from attune.core.tripwires import spread

ROWS = 8


class ReferenceIsModel(Tripwire):
    """Asks the objective for the gap after the first steps, when a reference must be left behind, and a teacher be ahead."""

    requires = frozenset({"text-out"})
    phase = "steps"
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where there is no gap at all."""
        if not context.objective.reference:
            return
        gap = context.objective.reference_gap(context.specialist, spread(context.examples, ROWS))
        if gap is not None and gap == 0.0:
            yield Alarm(
                "the reference gives the very probabilities of the model that trains: it moves along with it, or is the same model",
                "objective",
                "keep the reference frozen, as a copy of the weights before the first step; for distillation name a larger teacher",
            )
