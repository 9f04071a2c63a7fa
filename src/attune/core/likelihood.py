"""Documents as rows of tokens, and how likely a causal language model holds given answers and documents to be.

Learning and grading cut a document alike, so that the perplexity that is reported is that of what was learned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Row
from attune.core.conversation import conversation_of, keep_end, shortened_prompt, stop_ids, taught
from attune.core.errors import PlugError
from attune.core.memory import in_parts

if TYPE_CHECKING:
    from attune.core.specialist import Specialist

TOKENS_AT_ONCE = 8192
"""Tokens whose hidden states are held at once."""
_SENTENCES = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+|(?<=[。！？])|\n+")

Block = tuple[list[int], int]
"""Token ids, and how many of them at the beginning are only looked at: they are not predicted, or stood at the end of the block before."""


def document_ids(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """A document as token ids, and the places before which a sentence begins.

    It opens with the begin token, or with the end token where the tokenizer has no other (as GPT-2 was trained), so that its first word is
    predicted too, and closes with the end token.

    Raises:
        PlugError: the tokenizer has no end token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise PlugError("the base model's tokenizer has no end token, so a document could not end", place="base_model", fix="choose a base whose tokenizer_config.json names an eos_token")
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [int(begin), *(int(one) for one in found["input_ids"]), int(end)], [1 + place for place in sentence_places(text, found["offset_mapping"])]


def sentence_places(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Places of tokens with which a sentence or a line begins; `offsets` are where each token stands in the text."""
    found: list[int] = []
    place = 0
    for match in _SENTENCES.finditer(text):
        while place < len(offsets) and offsets[place][1] <= match.end():
            place += 1
        if 0 < place < len(offsets) and (not found or found[-1] != place):
            found.append(place)
    return found


def in_blocks(ids: Sequence[int], most: int, places: Sequence[int] = ()) -> list[Block]:
    """A document in blocks of at most `most` tokens, so that every token but the first is predicted exactly once.

    A block opens with the last token of the one before it, which it only looks at.

    Args:
        ids: the document, at least two tokens.
        most: at least two.
        places: where a block should begin when it can (sentences); a stretch without one that is too long is cut where it is full.
    """
    found: list[Block] = []
    begin = 1
    while begin < len(ids):
        full = begin + most - 1
        end = full if full >= len(ids) else max((place for place in places if begin < place <= full), default=full)
        found.append((list(ids[begin - 1 : end]), 1))
        begin = min(end, len(ids))
    return found


def answer_nll(specialist: Specialist, rows: Sequence[Row]) -> list[tuple[float, int]]:
    """Of each row's `completion` after its `prompt`: the sum of the negative log-likelihoods of its tokens in nats, and their number.

    The end token counts; of a conversation that is too long the oldest part is left out, as in learning. A row without a prompt is a document: all of its
    tokens count, in blocks of the model's length. The caller sets evaluation mode.
    """
    blocks: list[Block] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        own = _blocks(specialist, row)
        blocks += own
        owners += [number] * len(own)
    totals: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    order = sorted(range(len(blocks)), key=lambda i: (len(blocks[i][0]), i))
    while order:
        part = order[-max(1, TOKENS_AT_ONCE // len(blocks[order[-1]][0])) :]
        del order[-len(part) :]
        for i, (nats, count) in zip(part, in_parts(lambda some: block_likelihoods(specialist, [blocks[j] for j in some]), part), strict=True):
            before = totals[owners[i]]
            totals[owners[i]] = (before[0] + nats, before[1] + count)
        specialist.told("weighs answers", len(blocks) - len(order), len(blocks))
    return totals


def _blocks(specialist: Specialist, row: Row) -> list[Block]:
    room = getattr(specialist.model.body.config, "max_position_embeddings", None) or 1 << 30
    limit = min(specialist.max_length, room)
    if not row.get("prompt"):
        return in_blocks(document_ids(specialist.tokenizer, str(row["completion"]))[0], limit)
    *prompt, answer = conversation_of(row)
    stops, tools = stop_ids(specialist), row.get("tools")
    kept, _ = shortened_prompt(specialist, [{**one, "train": False} for one in prompt], [answer], stops, limit, tools)
    known = taught(specialist, [*kept, answer], stops, tools)
    ids = keep_end(known.ids, limit, specialist.tokenizer.bos_token_id)
    return [(ids, max(1, len(ids) - known.answer_size))]


def block_likelihoods(specialist: Specialist, blocks: Sequence[Block]) -> list[tuple[float, int]]:
    """Nats and number of the predicted tokens of each block; a beginning that blocks share is computed once."""
    import torch

    from attune.core.tokens import Tokens

    model: Any = specialist.model
    tokens = Tokens.of([ids for ids, _ in blocks], [known for _, known in blocks] if model.shares else None)
    learned = tokens.lay([[0] * known + [1] * (len(ids) - known) for ids, known in blocks]).nonzero().squeeze(1)
    said = model.log_probabilities(model.hidden(tokens, tokens.before[learned]), tokens.ids[0][learned])
    nats = torch.zeros(len(blocks), dtype=torch.float64).index_add(0, tokens.row[learned], -said.double())
    return [(total, len(ids) - known) for total, (ids, known) in zip(nats.tolist(), blocks, strict=True)]
