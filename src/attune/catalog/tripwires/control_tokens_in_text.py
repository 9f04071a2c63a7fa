"""A turn's text holds a control token of this base: it would be read as the token itself and end the turn, or begin another speaker's."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.conversation import SEGMENT, conversation_of, question_of
from attune.core.tripwires import counted, places

SHORT = 3
HEAD = 2


class ControlTokensInText(Tripwire):
    """Looks for the tokenizer's special tokens in what the turns say; segments are written without a template and hold them on purpose."""

    looks_at = ("prompt",)
    requires = frozenset({"prefers"})
    phase = "rows"
    judges = True

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm per token."""
        tokenizer = context.specialist.tokenizer
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} | set(tokenizer.all_special_tokens)
        signs = sorted(sign for sign in special if len(sign.strip()) >= SHORT)
        by_head: dict[str, list[str]] = {}  # some bases have thousands of them, and their beginnings are few
        for sign in signs:
            by_head.setdefault(sign[:HEAD], []).append(sign)
        found: dict[str, list[Row]] = {}
        for row in context.rows:
            texts = _texts(row)
            for head, own in by_head.items():
                begun = [text for text in texts if head in text]
                for sign in own if begun else ():
                    if any(sign in text for text in begun):
                        found.setdefault(sign, []).append(row)
        for sign, rows in found.items():
            yield Alarm(
                f"{counted(rows, context.rows, context.rows)} hold the base's control token '{sign}' in their text",
                places(rows),
                "take the token out of the text: the template writes it where it belongs",
                rows=tuple(rows),
                reason=f"the text holds the base's control token '{sign}'",
            )


def _texts(row: Row) -> list[str]:
    """What a row's turns and answers say, without the segments that stand beside a template's signs on purpose."""
    turns = conversation_of(row) if row.get("completion") is not None else question_of(row)
    found = [message["content"] for message in turns if message["role"] != SEGMENT or not row.get("prompt")]
    return [*found, row["rejected"]] if row.get("rejected") else found
