"""Go on as the base was trained, on plain documents of your domain: the next token of a decoder, hidden words of an encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from attune.core.contracts import Batch, Example, Objective, Row, Task
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.likelihood import document_ids, in_blocks, sentence_places
from attune.core.masking import draw, frame, hidden_places, mask_id, masked
from attune.core.receipts import ASIDE, Receipt
from attune.core.shapes import DOCUMENT_ROLES, PLAIN, document_of
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class PretrainingKeys(Keys):
    """Keys of the objective."""

    cut: Literal["blocks", "sentences", "drop"] = key(
        "blocks", "what happens to documents longer than train.max_length: learned in blocks of that length, in blocks that begin with a sentence where they can, or left out (and named)"
    )
    mask_share: float = key(0.15, "share of an encoder's tokens that are hidden and learned, drawn anew in every step", aliases=("mlm_probability",), gt=0, lt=1)


class Pretraining(Objective):
    """Domain adaptation (Gururangan et al. 2020, 'Don't Stop Pretraining'). No document sees another one, and every token of every document is
    learned: rows stand in one line without padding, so nothing is packed and nothing has to be kept apart."""

    keys_type = PretrainingKeys
    requires = frozenset({"language-model", "torch"})
    learns = PLAIN
    shortens = False

    def shaped(self, task: Task) -> Task:
        """A task that answers takes documents instead, graded by how likely it holds them to be; one that finds hidden words needs no answers."""
        if "text-out" not in task.traits:
            return task.with_rows([dataclasses.replace(role, target=False) for role in task.roles], task.parse)
        defaults = dataclasses.replace(task.defaults, main_metric="perplexity", metrics=("perplexity",), rivals=("untouched_base",))
        return task.with_rows(DOCUMENT_ROLES, document_of, defaults)

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Blocks of token ids, a document's one behind the other; a document that is left out has none. Raises DataError where none is left."""
        make = self._decoded if "text-out" in specialist.task.traits else self._encoded
        found = [one for row in rows for one in make(specialist, row, max_length)]
        if rows and not found:
            raise DataError(
                f"all {len(rows)} documents are longer than train.max_length = {max_length} tokens, and objective.cut = {self.keys.cut} leaves them out",
                place="objective.cut",
                fix="set it to blocks or sentences, or raise train.max_length",
            )
        return found

    def _decoded(self, specialist: Specialist, row: Row, most: int) -> list[Example]:
        ids, places = document_ids(specialist.tokenizer, row["completion"])
        if self.keys.cut == "drop" and len(ids) > most:
            return _left_out(specialist, row, len(ids), most)
        blocks = in_blocks(ids, most, places if self.keys.cut == "sentences" else ())
        return [{"row_id": row["row_id"], "size": len(block), "ids": block} for block, _ in blocks]

    def _encoded(self, specialist: Specialist, row: Row, most: int) -> list[Example]:
        before, behind = frame(specialist.tokenizer)
        room = most - len(before) - len(behind)
        text = specialist.task.text(row)
        found = specialist.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = [int(one) for one in found["input_ids"]]
        if self.keys.cut == "drop" and len(ids) > room:
            return _left_out(specialist, row, len(before) + len(ids) + len(behind), most)
        places = sentence_places(text, found["offset_mapping"]) if self.keys.cut == "sentences" else ()
        blocks = [block[1:] for block, _ in in_blocks([0, *ids], room + 1, [1 + place for place in places])] or [[]]
        special = frozenset(specialist.tokenizer.all_special_ids)
        return [{"row_id": row["row_id"], "size": len(before) + len(block) + len(behind), "whole": [*before, *block, *behind], "part": part, "special": special} for part, block in enumerate(blocks)]

    def renew(self, specialist: Specialist, examples: Sequence[Example], seed: int, step: int) -> Sequence[Example]:
        """An encoder's rows with other words hidden in every step, purely by (seed, step, row, block)."""
        if not examples or "whole" not in examples[0]:
            return examples
        mask, words = mask_id(specialist.tokenizer), len(specialist.tokenizer)
        found = []
        for one in examples:
            random = draw(seed, step, str(one["row_id"]), one["part"])
            places = hidden_places(one["whole"], one["special"], self.keys.mask_share, random)
            found.append({**one, "masked": masked(one["whole"], places, mask, words, random), "places": places})
        return found

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens; `learned`, int64, where the targets lie, and `targets`, their token ids. A decoder's state that predicts one lies before it."""
        from attune.core.tokens import Tokens

        if examples and "whole" in examples[0]:
            tokens = Tokens.of([one["masked"] for one in examples])
            hidden = tokens.lay([[int(place in one["places"]) for place in range(len(one["whole"]))] for one in examples]).nonzero().squeeze(1)
            return {"tokens": tokens, "learned": hidden, "targets": tokens.lay([one["whole"] for one in examples])[hidden]}
        tokens = Tokens.of([one["ids"] for one in examples])
        learned = (tokens.before >= 0).nonzero().squeeze(1)
        return {"tokens": tokens, "learned": learned, "targets": tokens.ids[0][learned]}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum of the cross-entropies over learned tokens; the count is those tokens."""
        tokens, learned = batch["tokens"], batch["learned"]
        hidden = model.hidden(tokens, learned if model.fills_masks else tokens.before[learned])
        total = (model.masked_loss if model.fills_masks else model.output_loss)(hidden, batch["targets"])
        return total, float(len(learned))


def _left_out(specialist: Specialist, row: Row, tokens: int, most: int) -> list[Example]:
    """No example, and a receipt that says why."""
    reason = f"the document is longer than train.max_length = {most} tokens, and objective.cut = drop leaves it out"
    specialist.noted(Receipt(row, "objective.cut", ASIDE, reason, "raise train.max_length, or set objective.cut to blocks or sentences", tokens, tokens))
    return []
