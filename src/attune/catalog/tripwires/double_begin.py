"""Rows begin with two begin tokens (the template writes one, and the text or the tokenizer another): a prompt that no pretrained model has seen."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError
from attune.core.tripwires import counted, places, rows_by_id, spread, token_rows


class DoubleBegin(Tripwire):
    """Looks at the first two token ids of rows."""

    looks_at = ("prompt",)
    requires = frozenset({"prefers"})
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that names the rows."""
        first, known = context.specialist.tokenizer.bos_token_id, rows_by_id(context)
        looked = [one for one in spread(context.examples) if token_rows(one)]
        double = [one for one in looked if first is not None and any(ids[:2] == [first, first] for ids in token_rows(one))]
        if double:
            rows = [known[str(one["row_id"])] for one in double if str(one["row_id"]) in known]
            sign = context.specialist.tokenizer.bos_token
            yield Alarm(
                f"{counted(double, looked, context.examples)} begin with '{sign}' twice", places(rows), f"take '{sign}' out of the rows' text, or out of the chat template, so that it is written once"
            )
