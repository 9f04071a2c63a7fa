"""Learn to answer as the rows do: the next token of every assistant turn, its end token included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.conversation import answered_size, conversation_of, shortened, shortened_prompt, stop_ids, taught
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.likelihood import document_ids, in_blocks
from attune.core.long_rows import TooLong, cut_facts, each_that_fits
from attune.core.receipts import place_of
from attune.core.replies import must_stay
from attune.core.shortening import FAR
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
        """Token ids and targets. A row that is too long loses the oldest part of its conversation (`cut` tells, `core.shortening`), never a part of its
        last answer nor what the system says; where these alone are too long, the row is left out: it would teach an answer without an end, or to what was
        never read. A text without a question is learned in blocks."""
        stops, first = stop_ids(specialist), specialist.tokenizer.bos_token_id

        def size(row: Row) -> int:
            return answered_size(specialist, conversation_of(row), stops, FAR * max_length, row.get("tools"))

        def encode(row: Row) -> list[Example]:
            try:
                *prompt, answer = conversation_of(row)
                kept, need = shortened_prompt(specialist, prompt, [answer], stops, max_length, row.get("tools"))
                one = None if need else taught(specialist, [*kept, answer], stops, row.get("tools"))
            except DataError as error:
                raise DataError(error.what, place=place_of(row), fix=error.fix) from error
            if one is None:
                raise must_stay(place_of(row), need, max_length)
            if one.answer_size >= max_length:
                if row.get("prompt"):
                    raise TooLong(place_of(row), one.answer_size + 1, max_length, one.cut)
                blocks = in_blocks(document_ids(specialist.tokenizer, row["completion"])[0], max_length)
                return [{"row_id": row["row_id"], "size": len(ids), "ids": ids, "targets": [IGNORED, *ids[1:]]} for ids, _ in blocks]
            ids, taught_ones = shortened(one, max_length, first)
            targets = [token if learned or self.keys.train_on_prompt else IGNORED for token, learned in zip(ids, taught_ones, strict=True)]
            targets[0] = IGNORED
            cut = kept is not prompt or one.cut or len(one.ids) > max_length
            whole = size(row) if cut else 0
            return [{"row_id": row["row_id"], "size": len(ids), "ids": ids, "targets": targets, **cut_facts(cut, whole, len(ids), whole > FAR * max_length)}]

        return [example for _, made in each_that_fits(specialist, rows, max_length, encode, size) for example in made]

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
        return model.output_loss(model.hidden(batch["tokens"], batch["tokens"].before[learned]), batch["targets"][learned]), float(len(learned))
