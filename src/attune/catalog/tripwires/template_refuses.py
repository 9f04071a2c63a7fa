"""The base's chat template refuses some rows' turns (a system's turn, functions, an odd order) or writes earlier turns anew once the conversation goes on."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.conversation import conversation_of, render
from attune.core.errors import DataError
from attune.core.tripwires import counted, places, spread


class TemplateRefuses(Tripwire):
    """Renders every row as training would, so that all refused rows are named at once."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm per reason that the template gives."""
        looked = spread(context.rows)
        reasons: dict[str, list[Row]] = {}
        for row in looked:
            try:
                render(context.specialist, conversation_of(row), to_answer=False, tools=row.get("tools"))
            except DataError as error:
                reasons.setdefault(error.what, []).append(row)
        for reason, rows in reasons.items():
            yield Alarm(
                f"{counted(rows, looked, context.rows)}: {reason}",
                places(rows),
                "change these rows (for a refused system turn: put its text into the user's), or choose a base whose template takes them",
            )
