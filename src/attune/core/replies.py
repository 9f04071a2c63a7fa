"""Answers to a prompt as token rows: what preference and reward objectives score, and how likely a model holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from attune.core.contracts import Row
from attune.core.conversation import Message, answer_of, keep_end, question_of, shortened_prompt, stop_ids, taught
from attune.core.errors import DataError
from attune.core.memory import in_parts
from attune.core.shortening import FAR, by_turns, without_oldest
from attune.core.specialist import Specialist, by_length
from attune.core.text import portion

if TYPE_CHECKING:
    import torch

    from attune.core.tokens import Tokens
    from attune.core.tunable import TunableModel

T = TypeVar("T")
AT_ONCE = 32
ANSWER = "an answer that does not fit into train.max_length = {} tokens, so its end could not be learned"
STAYS = "more that must stay than train.max_length = {} tokens hold: what the system says, the functions that may be called, the end of the conversation"


@dataclass(frozen=True)
class Answer:
    """A prompt and an answer to it, end token included, as one row of tokens."""

    ids: list[int]
    begin: int
    """Where the answer begins."""
    cut: bool = False
    """True when the oldest part of the prompt was left out."""


class TooLong(DataError):
    """A row that does not fit.

    Args:
        need: tokens that would hold it.
        limit: most tokens there may be.
        more: True when it was not encoded as a whole, so that it needs more than that.
        why: what it has, with a place for the limit.
    """

    def __init__(self, place: str | None, need: int, limit: int, more: bool = False, why: str = ANSWER) -> None:
        super().__init__(f"the row has {why.format(limit)}", place=place, fix="shorten or remove the row")
        self.need, self.more, self.why = need, more, why


def must_stay(place: str | None, need: int, limit: int, answer: str = ", the answer") -> TooLong:
    """That nothing of a conversation fits which `core.shortening` may leave; `answer` is empty where none is known."""
    return TooLong(place, need, limit, need > FAR * limit, STAYS + answer)


def each_that_fits(specialist: Specialist, rows: Sequence[Row], limit: int, encode: Callable[[Row], T]) -> list[tuple[Row, T]]:
    """Every row with what `encode` makes of it; general rows (`core.rows.GENERAL`) that are too long are left out.

    Args:
        limit: most tokens of a row.
        encode: raises TooLong.

    Raises:
        DataError: rows of the domain are too long; names them all, and a length that would do where the base has one.
    """
    from attune.core.rows import GENERAL

    found: list[tuple[Row, T]] = []
    long: list[TooLong] = []
    for row in rows:
        try:
            found.append((row, encode(row)))
        except TooLong as error:
            long += [] if row.get(GENERAL) else [error]
    if not long:
        return found
    need, more = max(one.need for one in long), any(one.more for one in long)
    room = getattr(specialist.base.config(), "max_position_embeddings", None) or 1 << 30
    longer = f"the base reads {room} tokens: " if need > room else f"set train.max_length to {f'far more than {need}' if more else f'{need} or more'}, or "
    raise DataError(
        f"{len(long)} of {len(rows)} rows have {', or '.join(dict.fromkeys(one.why.format(limit) for one in long))}",
        place=", ".join(str(one.place) for one in long[:5]) + (" ..." if len(long) > 5 else ""),
        fix=f"{longer}shorten or remove these rows",
    )


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
    return made


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

    rows, prompt, left_out = paired(asked, limit)
    over = max(0, *(len(ids) - limit for ids in rows))
    if (over or left_out) and by_turns(asked, None):
        kept, need = without_oldest(tokenizer, asked, limit, size)
        if need and whole:
            raise must_stay(place_of(row), need, limit)
        if not need:
            return [Answer(ids, 0, True) for ids in paired(kept, limit)[0]]
    own = len(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
    if over > own and whole:
        raise TooLong(place_of(row), max(map(len, rows)) - own, limit, texts != list(answers))
    lead, drop = int(rows[0][0] in tokenizer.all_special_ids), min(over, own)
    cut = over > 0 or left_out or texts != list(answers)
    shorter = [ids[:lead] + ids[lead + drop :] for ids in rows]
    return [Answer(ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]], 0, cut) for ids in shorter]


def place_of(row: Row) -> str | None:
    """Where a row stands; a request stands nowhere."""
    place = row.get("place") or row.get("row_id")
    return None if place is None else str(place)


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
