"""Answers to a prompt as token rows: what preference and reward objectives score, and how likely a model holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attune.core.contracts import Row
from attune.core.conversation import answer_of, question_of, stop_ids, taught
from attune.core.errors import DataError
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tokens import Tokens
    from attune.core.tunable import TunableModel


@dataclass(frozen=True)
class Answer:
    """A prompt and an answer to it, end token included, as one row of tokens."""

    ids: list[int]
    begin: int
    """Where the answer begins."""
    cut: bool = False
    """True when the oldest part of the prompt was left out."""


def answers_to(specialist: Specialist, row: Row, answers: Sequence[str], limit: int, stops: Sequence[int] | None = None) -> list[Answer]:
    """Encode several answers to a row's prompt; where they do not fit, every one loses the same oldest tokens of the prompt.

    Raises:
        DataError: an answer alone is longer than `limit`; its end could not be learned.
    """
    place = str(row.get("place") or row["row_id"])
    prompt = question_of(row)
    stops = stops if stops is not None else stop_ids(specialist)
    try:
        found = [taught(specialist, [*prompt, answer_of(answer)], stops, row.get("tools")) for answer in answers]
    except DataError as error:
        raise DataError(error.what, place=place, fix=error.fix) from error
    longest = max(one.answer_size for one in found)
    if longest >= limit:
        raise DataError(f"an answer of {longest} tokens does not fit into train.max_length = {limit}", place=place, fix=f"set train.max_length to {longest + 1} or more, or shorten or remove the row")
    first = specialist.tokenizer.bos_token_id
    over = max(0, *(len(one.ids) - limit for one in found))
    made = []
    for one in found:
        lead = 1 if over and first is not None and one.ids[0] == first else 0
        ids = one.ids[:lead] + one.ids[min(over + lead, len(one.ids) - one.answer_size) :]
        made.append(Answer(ids, len(ids) - one.answer_size, one.cut or over > 0))
    return made


def laid(specialist: Specialist, answers: Sequence[Answer]) -> Tokens:
    """The answers in one line; prompts that are equal are laid once where the network allows it."""
    from attune.core.tokens import Tokens

    return Tokens.of([one.ids for one in answers], [one.begin for one in answers] if specialist.model.shares else None)


def log_probabilities(model: TunableModel, tokens: Tokens, begins: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the log-probabilities of each answer's tokens, float32 [rows], and how many there are, with gradients.

    Args:
        tokens: of `laid`.
        begins: where each row's answer begins.
    """
    import torch

    begin = torch.tensor(list(begins))
    spoken = ((tokens.positions[0] >= begin[tokens.row]) & (tokens.positions[0] > 0)).nonzero().squeeze(1)
    found = model.log_probabilities(model.hidden(tokens)[tokens.before[spoken]], tokens.ids[0, spoken])
    row = tokens.row[spoken]
    zero = found.new_zeros(len(begin))
    return zero.index_add(0, row, found), zero.index_add(0, row, torch.ones_like(found))


def reference(specialist: Specialist, answers: Sequence[Answer], at_once: int = 32) -> list[float]:
    """Log-probabilities of answers by the model as it is now, in order; the caller has not trained it yet."""
    import torch

    from attune.core.memory import in_parts
    from attune.core.specialist import by_length

    found = [0.0] * len(answers)
    was_training = specialist.model.training
    specialist.model.eval()

    def some(part: Sequence[int]) -> list[float]:
        own = [answers[i] for i in part]
        sums: list[float] = log_probabilities(specialist.model, laid(specialist, own), [one.begin for one in own])[0].tolist()
        return sums

    with torch.no_grad():
        for index in by_length([len(one.ids) for one in answers], at_once):
            for i, value in zip(index, in_parts(some, index), strict=True):
                found[i] = value
    specialist.model.train(was_training)
    return found
