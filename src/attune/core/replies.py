"""Answers to a prompt as token rows: what preference and reward objectives score, and how likely a model holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from attune.core.contracts import Row
from attune.core.conversation import Message, answer_of, answered_size, keep_end, question_of, shortened_prompt, stop_ids, taught
from attune.core.errors import DataError
from attune.core.long_rows import TooLong, cut_facts
from attune.core.memory import in_parts
from attune.core.receipts import place_of
from attune.core.shortening import FAR, by_turns, without_oldest
from attune.core.specialist import Specialist, by_length
from attune.core.text import portion

if TYPE_CHECKING:
    import torch

    from attune.core.tokens import Tokens
    from attune.core.tunable import TunableModel

T = TypeVar("T")
AT_ONCE = 32
STAYS = "more that must stay than train.max_length = {} tokens hold: what the system says, the functions that may be called, the end of the conversation"


@dataclass(frozen=True)
class Answer:
    """A prompt and an answer to it, end token included, as one row of tokens."""

    ids: list[int]
    begin: int
    """Where the answer begins."""
    cut: bool = False
    """True when the oldest part of the prompt was left out."""
    whole: int = 0
    """How many tokens prompt and answer have; counted where they are learned and were cut."""
    more: bool = False
    """True when they were counted in part only."""


def must_stay(place: str | None, need: int, limit: int, answer: str = ", the answer") -> TooLong:
    """That nothing of a conversation fits which `core.shortening` may leave; `answer` is empty where none is known."""
    return TooLong(place, need, limit, need > FAR * limit, STAYS + answer)


def answers_to(specialist: Specialist, row: Row, answers: Sequence[str], limit: int, stops: Sequence[int] | None = None, *, whole: bool = True) -> list[Answer]:
    """Encode several answers to a row's prompt; where they do not fit, every one loses the same oldest part of the prompt, never what the system says.

    Args:
        specialist: whose tokenizer and template are used.
        row: its `prompt`.
        answers: texts.
        limit: most tokens of prompt and answer.
        stops: of `stop_ids`, where they are known already.
        whole: refuse an answer that is too long, by itself or beside what has to stay; False, for answers that are only looked at: keep its end.

    Raises:
        TooLong: an answer, alone or beside what has to stay before it, is longer than `limit`.
    """
    place = place_of(row)
    prompt, told = [{**one, "train": False} for one in question_of(row)], [answer_of(answer) for answer in answers]
    stops = stops if stops is not None else stop_ids(specialist)
    try:
        kept, need = shortened_prompt(specialist, prompt, told, stops, limit, row.get("tools"))
        found = [] if need and whole else [taught(specialist, [*kept, answer], stops, row.get("tools")) for answer in told]
    except DataError as error:
        raise DataError(error.what, place=place, fix=error.fix) from error
    if need and whole:
        raise must_stay(place, need, limit)
    longest = max(one.answer_size for one in found)
    first = specialist.tokenizer.bos_token_id
    if longest >= limit and not whole:
        ends = [(keep_end(one.ids, limit, first), one) for one in found]
        return [Answer(ids, max(len(ids) - one.answer_size, 1), one.cut or len(ids) < len(one.ids)) for ids, one in ends]
    if longest >= limit:
        raise TooLong(place, longest + 1, limit, any(one.cut for one in found))
    over = max(0, *(len(one.ids) - limit for one in found))
    made = []
    for one in found:
        lead = 1 if over and first is not None and one.ids[0] == first else 0
        ids = one.ids[:lead] + one.ids[min(over + lead, len(one.ids) - one.answer_size) :]
        made.append(Answer(ids, len(ids) - one.answer_size, kept is not prompt or one.cut or over > 0))
    if not whole or not made[0].cut:
        return made
    return [replace(one, whole=size, more=size > FAR * limit) for one, size in zip(made, whole_sizes(specialist, row, answers, limit, stops), strict=True)]


def heard(specialist: Specialist, row: Row, answers: Sequence[str], limit: int, *, whole: bool = True) -> list[Answer]:
    """Encode answers to a row's prompt that are to be scored: through the chat template for a network that is read at its last token (a decoder), else
    as the pair of texts that encoders read. Arguments and errors as of `answers_to`."""
    if specialist.model.pooling == "last":
        return answers_to(specialist, row, answers, limit, whole=whole)
    tokenizer, asked = specialist.tokenizer, question_of(row)
    texts = [portion(answer, limit) for answer in answers]

    def paired(messages: Sequence[Message], most: int) -> tuple[list[list[int]], str, bool]:
        told = plain_prompt(messages)
        prompt = portion(told, most, end=True)
        return [[int(one) for one in tokenizer(prompt, text, add_special_tokens=True, verbose=False)["input_ids"]] for text in texts], prompt, len(prompt) < len(told)

    def size(messages: Sequence[Message], most: int) -> int:
        rows, _, shorter = paired(messages, most)
        return max(most + 1 if shorter else 0, *map(len, rows))

    def counted(made: list[Answer]) -> list[Answer]:
        if not whole or not made[0].cut:
            return made
        return [replace(one, whole=size, more=size > FAR * limit) for one, size in zip(made, whole_sizes(specialist, row, answers, limit, paired=True), strict=True)]

    rows, prompt, left_out = paired(asked, limit)
    over = max(0, *(len(ids) - limit for ids in rows))
    if (over or left_out) and by_turns(asked, None):
        kept, need = without_oldest(tokenizer, asked, limit, size)
        if need and whole:
            raise must_stay(place_of(row), need, limit)
        if not need:
            return counted([Answer(ids, 0, True) for ids in paired(kept, limit)[0]])
    own = len(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
    if over > own and whole:
        raise TooLong(place_of(row), max(map(len, rows)) - own, limit, texts != list(answers))
    lead, drop = int(rows[0][0] in tokenizer.all_special_ids), min(over, own)
    cut = over > 0 or left_out or texts != list(answers)
    shorter = [ids[:lead] + ids[lead + drop :] for ids in rows]
    return counted([Answer(ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]], 0, cut) for ids in shorter])


def whole_sizes(specialist: Specialist, row: Row, answers: Sequence[str], limit: int, stops: Sequence[int] | None = None, *, paired: bool = False) -> list[int]:
    """How many tokens a row's prompt and each of these answers have together, counted as far as `FAR` times the limit: more than that is only more.

    Args:
        stops: of `stop_ids`, where they are known already.
        paired: True where prompt and answer are read as a pair of texts, as `heard` says.
    """
    asked, far = question_of(row), FAR * limit
    if paired:
        told = plain_prompt(asked)
        read = [(portion(told, far, end=True), portion(answer, far)) for answer in answers]
        sizes = [len(specialist.tokenizer(*pair, add_special_tokens=True, verbose=False)["input_ids"]) for pair in read]
        return [far + 1 if len(pair[0]) + len(pair[1]) < len(told) + len(answer) else size for pair, answer, size in zip(read, answers, sizes, strict=True)]
    stops = stops if stops is not None else stop_ids(specialist)
    return [answered_size(specialist, [*asked, answer_of(answer)], stops, far, row.get("tools")) for answer in answers]


def cut_of(answers: Sequence[Answer]) -> dict[str, int | bool]:
    """What an example says of answers that lost the same part of their prompt (`core.long_rows.cut_facts`): its size is that of the first."""
    one = answers[0]
    return cut_facts(one.cut, one.whole, len(one.ids), one.more)


def plain_prompt(messages: Sequence[Message]) -> str:
    """A conversation as plain text: a single turn as it is, several with who speaks."""
    return messages[0]["content"] if len(messages) == 1 else "\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in messages)


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
    found = model.log_probabilities(model.hidden(tokens, tokens.before[spoken]), tokens.ids[0, spoken])
    row = tokens.row[spoken]
    zero = found.new_zeros(len(begin))
    return zero.index_add(0, row, found), zero.index_add(0, row, torch.ones_like(found))


def reference(specialist: Specialist, answers: Sequence[Answer]) -> list[float]:
    """Log-probabilities of answers by the model as it is now, in order; the caller has not trained it yet."""
    return [total for total, _ in _held(specialist, answers)]


def _held(specialist: Specialist, answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Sum and mean per token of each answer's log-probabilities, without gradients, in order."""

    def some(part: Sequence[Answer]) -> list[tuple[float, float]]:
        sums, sizes = log_probabilities(specialist.model, laid(specialist, part), [one.begin for one in part])
        return list(zip(sums.tolist(), (sums / sizes).tolist(), strict=True))

    return looked_at(specialist, answers, some)


def looked_at(specialist: Specialist, answers: Sequence[Answer], ask: Callable[[Sequence[Answer]], list[T]]) -> list[T]:
    """What `ask` says of some answers at once, for all of them, in order: in evaluation mode, without gradients."""
    import torch

    found: dict[int, T] = {}
    was_training = specialist.model.training
    specialist.model.eval()
    with torch.no_grad():
        for index in by_length([len(one.ids) for one in answers], AT_ONCE):
            found |= zip(index, in_parts(ask, [answers[i] for i in index]), strict=True)
            specialist.told("compares answers", len(found), len(answers))
    specialist.model.train(was_training)
    return [found[i] for i in range(len(answers))]


def likelihoods(specialist: Specialist, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the metrics of preferences read, one entry per row (empty where the row prefers nothing): how likely the model holds the row's answers,
    as the mean log-probability per token, end token included.

    A row with `rejected`: `margin`, of the chosen answer (`completion`) minus that of the rejected one, in nats. A row with `desirable`: `likelihood`
    of its answer, and `desirable` as the row has it.
    """
    names = {i: ["completion", "rejected"] if row.get("rejected") else ["completion"] for i, row in enumerate(rows) if row.get("rejected") or row.get("desirable") is not None}
    stops = stop_ids(specialist) if names else []
    encoded = [answers_to(specialist, rows[i], [rows[i][name] for name in own], specialist.max_length, stops, whole=False) for i, own in names.items()]
    told = iter(_held(specialist, [answer for both in encoded for answer in both]))
    found: list[dict[str, Any]] = [{} for _ in rows]
    for i, own in names.items():
        means = [next(told)[1] for _ in own]
        found[i] = {"margin": means[0] - means[1]} if len(own) > 1 else {"likelihood": means[0], "desirable": bool(rows[i]["desirable"])}
    return found
