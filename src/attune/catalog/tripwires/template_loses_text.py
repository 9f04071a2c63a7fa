"""The chat template leaves out what a turn says (a system's turn, a function's answer), so the model would never see it."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.conversation import conversation_of
from attune.core.errors import PlugError
from attune.core.tripwires import counted, places, rendered, spread


class TemplateLosesText(Tripwire):
    """Looks for every turn's text in the rendered conversation; thoughts in earlier answers are left out on purpose by some templates."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm per role whose text is lost."""
        looked = spread(context.rows)
        lost: dict[str, list[Row]] = {}
        for row in looked:
            text = rendered(context, row)
            if text is None:
                continue
            flat = "".join(text.split())
            for message in conversation_of(row):
                if "<think>" not in message["content"] and "".join(message["content"].split()) not in flat:
                    lost.setdefault(message["role"], []).append(row)
        for role, rows in lost.items():
            rows = list({id(row): row for row in rows}.values())
            yield Alarm(
                f"the chat template leaves out or changes what the {role} says in {counted(rows, looked, context.rows)}",
                places(rows),
                "choose a base whose template writes such turns, or write their text into the user's turn",
            )
