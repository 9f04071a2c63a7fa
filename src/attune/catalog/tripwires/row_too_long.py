"""Rows are longer than the base has positions for: what stands behind them would be read wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import RecipeError
from attune.core.tripwires import places, rows_by_id


class RowTooLong(Tripwire):
    """Compares the longest row with max_position_embeddings."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    error = RecipeError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that names the rows."""
        from attune.core.flat import network_of

        room = getattr(network_of(context.specialist.model.body).config, "max_position_embeddings", None)
        known = rows_by_id(context)
        long = [one for one in context.examples if isinstance(room, int) and one["size"] > room]
        if long:
            rows = [known[str(one["row_id"])] for one in long if str(one["row_id"]) in known]
            yield Alarm(
                f"{len(long):,} rows have up to {max(one['size'] for one in long):,} tokens, and the base reads {room:,}",
                f"train.max_length; {places(rows)}",
                f"set train.max_length to {room} or less",
            )
