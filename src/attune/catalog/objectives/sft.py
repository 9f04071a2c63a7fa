"""Learn to answer as the rows do: the next token of every assistant turn, its end token included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.conversation import conversation_of, keep_end, stop_ids, taught
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel

IGNORED = -100


class SftKeys(Keys):
    """Keys of the objective."""

    train_on_prompt: bool = key(False, "learn the question's tokens too", aliases=("train_on_inputs", "train_on_input"))


class Sft(Objective):
    """Supervised fine-tuning of a causal language model."""

    keys_type = SftKeys
    requires = frozenset({"text-out", "torch"})

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Token ids and targets. A row that is too long loses the oldest part of its conversation (`cut` tells), never a part of its last answer;
        where that answer alone is too long, the row is refused: it would teach an answer without an end."""
        stops, first = stop_ids(specialist), specialist.tokenizer.bos_token_id
        found: list[Example] = []
        too_long: list[tuple[str, int, bool]] = []
        for row in rows:
            try:
                one = taught(specialist, conversation_of(row), stops, row.get("tools"))
            except DataError as error:
                raise DataError(error.what, place=_place(row), fix=error.fix) from error
            if one.answer_size >= max_length:
                too_long.append((_place(row), one.answer_size + 1, one.cut))
                continue
            targets = [token if learned or self.keys.train_on_prompt else IGNORED for token, learned in zip(one.ids, one.learned, strict=True)]
            ids = keep_end(one.ids, max_length, first)
            targets = targets[len(targets) - len(ids) :]
            targets[0] = IGNORED
            found.append({"row_id": row["row_id"], "size": len(ids), "ids": ids, "targets": targets, "cut": one.cut or len(one.ids) > max_length})
        if too_long:
            need = max(size for _, size, _ in too_long)
            raise DataError(
                f"{len(too_long)} of {len(rows)} rows have an answer that does not fit into train.max_length = {max_length} tokens, so its end could not be learned",
                place=", ".join(place for place, _, _ in too_long[:5]) + (" ..." if len(too_long) > 5 else ""),
                fix=f"set train.max_length to {'far more than ' if any(cut for _, _, cut in too_long) else ''}{need}{'' if any(cut for _, _, cut in too_long) else ' or more'}, or shorten or remove these rows",
            )
        return found

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens, and targets, int64 [total], as the tokens lie: -100 where nothing is learned. What rows have in common before their first
        learned token, a system prompt for example, is laid once where the network allows it."""
        from attune.core.tokens import Tokens

        silent = [next((i for i, target in enumerate(e["targets"]) if target != IGNORED), len(e["ids"])) for e in examples]
        tokens = Tokens.of([e["ids"] for e in examples], silent if specialist.model.shares else None)
        return {"tokens": tokens, "targets": tokens.lay([e["targets"] for e in examples])}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the cross-entropies over learned tokens; the count is those tokens."""
        learned = (batch["targets"] != IGNORED).nonzero().squeeze(1)  # never a row's first token, so each has one before it
        return model.output_loss(model.hidden(batch["tokens"])[batch["tokens"].before[learned]], batch["targets"][learned]), float(len(learned))


def _place(row: Row) -> str:
    return str(row.get("place") or row["row_id"])
