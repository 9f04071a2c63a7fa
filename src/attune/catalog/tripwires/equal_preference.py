"""The chosen and the rejected answer of a row are the same tokens, at least as far as the model reads: the row prefers nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.tripwires import counted, places


class EqualPreference(Tripwire):
    """Encodes both answers, up to the model's length."""

    looks_at = ("completion", "rejected")
    requires = frozenset({"prefers"})
    phase = "rows"
    judges = True

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that names the rows."""
        looked = [row for row in context.rows if row.get("rejected") is not None]
        encode, size = context.specialist.tokenizer, context.specialist.max_length
        same = [row for row in looked if _ids(encode, row["completion"], size) == _ids(encode, row["rejected"], size)]
        if same:
            fix = f"leave these rows out, or {_longer(context, same, size)}"
            what = f"the chosen and the rejected answer are the same {size} tokens"
            reason = f"as far as the model reads, {size} tokens, the chosen and the rejected answer are the same"
            yield Alarm(f"{what} in {counted(same, looked, looked)}", places(same), fix, rows=tuple(same), reason=reason)


def _longer(context: TripwireContext, same: Sequence[Row], size: int) -> str:
    """What helps where answers differ only behind the model's length: more of it as far as the base reads, else shorter answers."""
    room, encode = getattr(context.specialist.base.config(), "max_position_embeddings", None), context.specialist.tokenizer
    if room is None:
        return f"raise train.max_length = {size} where the answers differ only behind it"
    if size < room and any(_ids(encode, row["completion"], room) != _ids(encode, row["rejected"], room) for row in same):
        return f"raise train.max_length = {size}, to at most the {room} tokens that the base reads, where the answers differ only behind it"
    return f"shorten what both answers begin with: they are the same as far as the base reads, {room} tokens"


def _ids(tokenizer: object, text: str, size: int) -> list[int]:
    found: list[int] = tokenizer(text[: 40 * size].strip(), add_special_tokens=False, verbose=False)["input_ids"][:size]  # type: ignore[operator]
    return found
