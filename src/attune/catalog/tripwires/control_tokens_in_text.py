"""A turn's text holds a control token of this base: it would be read as the token itself and end the turn, or begin another speaker's."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.conversation import SEGMENT, conversation_of
from attune.core.tripwires import counted, places, spread

SHORT = 3


class ControlTokensInText(Tripwire):
    """Looks for the tokenizer's special tokens in what the turns say; segments are written without a template and hold them on purpose."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm per token."""
        tokenizer = context.specialist.tokenizer
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | set(tokenizer.all_special_tokens)
        signs = sorted(sign for sign in special if len(sign.strip()) >= SHORT)
        looked = spread(context.rows)
        found: dict[str, list[Row]] = {}
        for row in looked:
            for message in conversation_of(row):
                if message["role"] != SEGMENT or not row.get("prompt"):
                    for sign in signs:
                        if sign in message["content"] and (not found.get(sign) or found[sign][-1] is not row):
                            found.setdefault(sign, []).append(row)
        for sign, rows in found.items():
            yield Alarm(
                f"{counted(rows, looked, context.rows)} hold the base's control token '{sign}' in their text",
                places(rows),
                "take the token out of the text, or leave these rows out: the template writes it where it belongs",
            )
