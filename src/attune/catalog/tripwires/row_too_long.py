"""Rows are longer than the base has positions for: what stands behind them would be read wrongly or not at all."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import RecipeError
from attune.core.tripwires import places, rows_by_id, token_rows


class RowTooLong(Tripwire):
    """Compares the longest row with max_position_embeddings."""

    looks_at = ("prompt",)
    requires = frozenset({"prefers"})
    error = RecipeError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that names the rows."""
        from attune.core.flat import network_of

        room = getattr(network_of(context.specialist.model.body).config, "max_position_embeddings", None)
        known = rows_by_id(context)
        long = {str(one["row_id"]): len(ids) for one in context.examples for ids in token_rows(one) if isinstance(room, int) and len(ids) > room}
        if long:
            rows = [known[name] for name in long if name in known]
            yield Alarm(
                f"{len(long):,} rows have up to {max(long.values()):,} tokens, and the base reads {room:,}",
                f"train.max_length; {places(rows)}",
                f"set train.max_length to {room} or less",
            )
