"""How likely a causal language model holds given answers to be: one pass without padding, the output layer only where the answer stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Row
from attune.core.conversation import conversation_of, keep_end, stop_ids, taught
from attune.core.memory import in_parts

if TYPE_CHECKING:
    from attune.core.specialist import Specialist

TOKENS_AT_ONCE = 8192
"""Tokens whose hidden states are held at once."""


def answer_nll(specialist: Specialist, rows: Sequence[Row]) -> list[tuple[float, int]]:
    """Of each row's `completion` after its `prompt`: the sum of the negative log-likelihoods of its tokens (nats), and their number.

    The end token counts; of a row longer than the model reads the oldest tokens are left out. A row without a prompt is plain text, of which every
    token counts. The caller sets evaluation mode (`Specialist.likelihood` does).
    """
    encoded = _encoded(specialist, rows)
    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (len(encoded[i][0]), i))
    while order:
        size = len(encoded[order[-1]][0])
        part = order[-max(1, TOKENS_AT_ONCE // max(size, 1)) :]
        del order[-len(part) :]
        for i, one in zip(part, in_parts(lambda some: _nll(specialist, [encoded[j] for j in some]), part), strict=True):
            found[i] = one
    return found


def _encoded(specialist: Specialist, rows: Sequence[Row]) -> list[tuple[list[int], int]]:
    """Token ids, and how many at their end are the answer's (never the first)."""
    stops, tokenizer = stop_ids(specialist), specialist.tokenizer
    room = getattr(specialist.model.body.config, "max_position_embeddings", None) or 1 << 30
    limit, first = min(specialist.max_length, room), tokenizer.bos_token_id
    found = []
    for row in rows:
        if row["prompt"]:
            one = taught(specialist, conversation_of(row), stops, row.get("tools"))
            ids, size = one.ids, one.answer_size
        else:
            text = [int(token) for token in tokenizer(str(row["completion"]), add_special_tokens=False, verbose=False)["input_ids"]]
            ids = [*([int(first)] if first is not None else []), *text, stops[0]]
            size = len(text) + 1
        kept = keep_end(ids, limit, first)
        found.append((kept, min(size, len(kept) - 1)))
    return found


def _nll(specialist: Specialist, encoded: Sequence[tuple[list[int], int]]) -> list[tuple[float, int]]:
    import torch

    from attune.core.tokens import Tokens

    tokens = Tokens.of([ids for ids, _ in encoded])
    model: Any = specialist.model
    hidden = model.hidden(tokens)
    found = []
    for row, (ids, size) in enumerate(encoded):
        end = int(tokens.starts[row] + tokens.lengths[row])
        total = model.output_loss(hidden[end - size - 1 : end - 1], torch.tensor(ids[len(ids) - size :])) if size else 0.0
        found.append((float(total), size))
    return found
