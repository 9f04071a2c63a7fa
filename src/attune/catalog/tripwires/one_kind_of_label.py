"""Rows with labelled answers are all good or all bad: there is nothing to tell apart."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.tripwires import places


class OneKindOfLabel(Tripwire):
    """Looks at the role `desirable`, where rows have it."""

    requires = frozenset({"text-out"})
    phase = "rows"

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where all labels agree."""
        labels = {row["desirable"] for row in context.rows if row.get("desirable") is not None}
        if len(labels) == 1:
            said = "true" if labels == {True} else "false"
            yield Alarm(f"every answer is labelled {said}", places(context.rows), "give rows of both kinds; for good answers alone use objective sft")
