"""The chat template writes the date of the day: what is trained with today's is asked with another day's tomorrow."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.conversation import template_of


class TemplateTellsTime(Tripwire):
    """Looks for the clock in the template; it is told, as many bases do so by design."""

    requires = frozenset({"text-out"})
    phase = "rows"

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One notice."""
        if "strftime_now" in template_of(context.specialist):
            yield Alarm(
                "the base's chat template writes today's date into every prompt", "chat_template", "give the rows a system turn of their own where the template lets it replace the date", blocks=False
            )
