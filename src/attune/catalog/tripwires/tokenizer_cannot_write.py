"""The tokenizer cannot write the answers: letters become unknown tokens, so the model would learn to answer something else."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Row, Tripwire, TripwireContext
from attune.core.errors import PlugError
from attune.core.text import normalise
from attune.core.tripwires import counted, places, spread

SHARE = 0.02
LONG = 2000


class TokenizerCannotWrite(Tripwire):
    """Encodes answers and decodes them again; a few odd characters are told, more of them block."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})
    phase = "rows"
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm with the first answer that is lost."""
        tokenizer = context.specialist.tokenizer
        looked = [row for row in spread(context.rows) if row.get("completion")]
        lost: list[Row] = []
        for row in looked:
            text = row["completion"][:LONG]
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            unknown = tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids
            if unknown or _letters(tokenizer.decode(ids, skip_special_tokens=False)) != _letters(text):
                lost.append(row)
        if lost:
            blocks = len(lost) > SHARE * len(looked)
            fix = "choose a base whose tokenizer knows the language of the answers" if blocks else "take these characters out of the answers, or leave the rows out"
            yield Alarm(f"the base's tokenizer cannot write {counted(lost, looked, context.rows)}' answers", places(lost), fix, blocks)


def _letters(text: str) -> str:
    return "".join(normalise(text).split())
