"""The base's chat template refuses some rows' turns (a system's turn, functions, an odd order) or writes earlier turns anew once the conversation goes on."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.conversation import conversation_of, question_of, render
from attune.core.errors import DataError
from attune.core.tripwires import counted, places


class TemplateRefuses(Tripwire):
    """Renders every row as training would, so that all refused rows are named at once."""

    looks_at = ("prompt",)
    requires = frozenset({"prefers"})
    phase = "rows"
    judges = True

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm per reason that the template gives."""
        specialist = context.specialist
        if "text-out" not in specialist.task.traits and not specialist.signature.get("chat_template") and specialist.base.pooling() != "last":
            return  # an encoder reads pairs of texts, without a template
        reasons: dict[str, list[Row]] = {}
        for row in context.rows:
            answered = row.get("completion") is not None
            try:
                render(context.specialist, conversation_of(row) if answered else question_of(row), to_answer=not answered, tools=row.get("tools"))
            except DataError as error:
                reasons.setdefault(error.what, []).append(row)
        for reason, rows in reasons.items():
            fix = "change these rows (for a refused system turn: put its text into the user's), or choose a base whose template takes them"
            yield Alarm(f"{counted(rows, context.rows, context.rows)}: {reason}", places(rows), fix, rows=tuple(rows), reason=reason)
