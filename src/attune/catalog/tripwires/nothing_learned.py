"""Rows without a single learned token: the loss of such a batch is 0 or no number, and the run would seem to succeed."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.tripwires import learned_ids, places, rows_by_id


class NothingLearned(Tripwire):
    """Counts the targets in the batch that the objective makes of each row."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm: how many of all rows, and the first of them."""
        empty = [one for one in context.examples if learned_ids(context, one) == []]
        if empty or not context.examples:
            known = rows_by_id(context)
            rows = [known[str(one["row_id"])] for one in empty if str(one["row_id"]) in known]
            what = f"{len(empty):,} of {len(context.examples):,} rows teach no token at all" if context.examples else "there is no row to learn from"
            yield Alarm(what, places(rows) or "data.path", "look at them with `attune check --show-mask`; most often train.max_length cuts the answer away, or every turn says train: false")
