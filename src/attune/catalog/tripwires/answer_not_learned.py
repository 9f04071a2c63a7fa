"""The learned tokens are not the answer's: the mask is shifted, or lies on another turn."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.text import normalise
from attune.core.tripwires import counted, learned_ids, places, rows_by_id, spread

BEGIN = 60
SHARE = 0.02
UNKNOWN = "�"


class AnswerNotLearned(Tripwire):
    """Decodes what a row's batch teaches and looks for the answer in it."""

    looks_at = ("completion",)
    requires = frozenset({"text-out"})

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that shows what is learned in place of the answer."""
        known, tokenizer = rows_by_id(context), context.specialist.tokenizer
        looked = [one for one in spread(context.examples) if known.get(str(one["row_id"]), {}).get("prompt")]
        wrong, shown = [], ""
        for one in looked:
            ids, row = learned_ids(context, one), known[str(one["row_id"])]
            if not ids or "<tool_call>" in row["completion"]:
                continue
            said = tokenizer.decode(ids)
            if _flat(row["completion"])[-BEGIN:] not in _flat(said) or _flat(row["completion"])[:BEGIN] not in _flat(said):
                whole = tokenizer.decode(tokenizer(row["completion"], add_special_tokens=False, verbose=False)["input_ids"])
                if _flat(whole) == _flat(row["completion"]):  # else the tokenizer is to blame, which is told elsewhere
                    wrong.append(row)
                    shown = shown or said[:BEGIN]
        if wrong:
            yield Alarm(
                f"what is learned is not the answer in {counted(wrong, looked, context.examples)}, but for example {shown!r}",
                places(wrong),
                "look at `attune check --show-mask`; mend the objective's targets",
                len(wrong) > SHARE * len(looked),
            )


def _flat(text: str) -> str:
    return "".join(normalise(text).split())
