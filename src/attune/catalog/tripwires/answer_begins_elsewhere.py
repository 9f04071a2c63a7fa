"""Training and answering begin an answer at different places: the template writes something between the question and the answer that it leaves out when asked."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.conversation import conversation_of
from attune.core.errors import PlugError
from attune.core.tripwires import places, rendered, spread

FEW = 64


class AnswerBeginsElsewhere(Tripwire):
    """Compares the text up to where an answer is asked for with the text that is learned from."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that shows what stands between."""
        between: dict[str, list[Row]] = {}
        for row in spread(context.rows, FEW):
            answer = conversation_of(row)[-1]
            whole, asked = rendered(context, row), rendered(context, row, to_answer=True)
            if whole is None or asked is None or answer["role"] == "segment" or not answer["content"].strip():
                continue
            begin = whole.rfind(answer["content"].strip())
            extra = whole[len(asked) : begin].strip() if whole.startswith(asked) else "(other text)"
            if extra:
                between.setdefault(extra, []).append(row)
        for extra, rows in between.items():
            thinks = "think" in extra and len(extra) < 40
            fix = "use a chat template that ends with the assistant's header when add_generation_prompt is true"
            yield Alarm(f"the chat template writes {extra!r} before the answer in training and not when an answer is asked for", f"chat_template; {places(rows)}", fix, blocks=not thinks)
