"""Which token comes next: greedy or drawn, with penalties and limits on what may be drawn.

A drawn token is a pure function of the network's answer and of (seed, request, position): what else is decoded at the same time plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from attune.core.errors import RecipeError
from attune.core.randomness import key as random_key

COLDEST = 1e-5
"""Temperatures below it are 0: logits divided by them are no numbers."""
HEAD = 512
"""So many of the likeliest tokens are sorted first; all of them only where these do not reach `top_p`."""


@dataclass(frozen=True)
class Sampling:
    """How one answer is written. The defaults are greedy decoding."""

    max_tokens: int = 64
    temperature: float = 0.0
    """0 (or below COLDEST): always the likeliest token."""
    top_p: float = 1.0
    """Draw from the likeliest tokens whose probabilities reach this sum (Holtzman et al. 2020, section 3.1); 0: the likeliest alone."""
    top_k: int = 0
    """Draw from so many of the likeliest tokens; 0: from all."""
    min_p: float = 0.0
    """Draw only tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Logits of tokens that were seen, the prompt's included, are divided by it, or multiplied where negative (Keskar et al. 2019, section 4.1)."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that it was written."""
    presence_penalty: float = 0.0
    """Taken from the logit of a token that was written at all."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    request: int = 0
    """Tells apart requests of one seed: the row, or the number of the answer."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    as_drawn: bool = False
    """Log-probabilities that are told are those of the temperature, not of the network itself."""
    top_logprobs: int = 0
    """So many of the likeliest tokens are reported at each place."""

    def __post_init__(self) -> None:
        """Raises RecipeError for numbers that mean nothing."""
        for name, fits, wanted in (
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature <= 100, "0 to 100"),
            ("top_p", 0 <= self.top_p <= 1, "0 to 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "above 0, up to 100"),
            ("logit_bias", all(math.isfinite(one) for one in self.logit_bias.values()), "numbers"),
            ("stop", all(self.stop), "texts that are not empty"),
        ):
            if not fits:
                raise RecipeError(f"{name} = {getattr(self, name)!r} means nothing", place=name, fix=f"give {wanted}")

    @property
    def draws(self) -> bool:
        """True when tokens are drawn."""
        return self.temperature >= COLDEST

    @property
    def edits(self) -> bool:
        """True when logits are changed by what was said before."""
        return self.repetition_penalty != 1.0 or bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)


@dataclass(frozen=True)
class Said:
    """What a request has said so far, as far as the choice of its next token asks."""

    sampling: Sampling
    prompt: Sequence[int]
    answer: Sequence[int]
    allowed: torch.Tensor | None = None
    """bool [vocabulary]: the tokens that a grammar allows."""


@dataclass(frozen=True)
class Choice:
    """A token, its log-probability by the network itself (before temperature, penalties and limits, but see `Sampling.as_drawn`), and the likeliest tokens of its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: torch.Tensor, said: Sequence[Said]) -> list[Choice | None]:
    """The next token of every request; None where its logits, or what its settings make of them, are no distribution.

    Args:
        logits: [requests, vocabulary]; not changed.
    """
    own = logits.float()
    spread = own.logsumexp(-1)
    shaped = own
    for row, one in enumerate(said):
        if one.sampling.edits or one.allowed is not None:
            if shaped is own:
                shaped = own.clone()
            _edit(shaped[row], one)
    tokens = shaped.argmax(-1)
    drawn = [row for row, one in enumerate(said) if one.sampling.draws]
    if drawn:
        tokens[torch.tensor(drawn)] = _draw(shaped[drawn] if len(drawn) < len(said) else shaped, [said[row] for row in drawn])
    sound = (spread.isfinite() & (tokens >= 0)).tolist()
    tokens = tokens.clamp(min=0)
    logprobs = (own.gather(1, tokens.unsqueeze(1)).squeeze(1) - spread).tolist()
    warm = [row for row in drawn if said[row].sampling.as_drawn and said[row].sampling.temperature != 1]
    if warm:
        scaled = own[warm] / torch.tensor([[said[row].sampling.temperature] for row in warm])
        for row, one in zip(warm, scaled.log_softmax(-1).gather(1, tokens[warm].unsqueeze(1)).squeeze(1).tolist(), strict=True):
            logprobs[row] = one
    most = max((one.sampling.top_logprobs for one in said), default=0)
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(said)
    if most:
        values, ids = own.topk(min(most, own.shape[1]), -1)
        values = values - spread.unsqueeze(1)
        tops = [tuple(zip(i[: one.sampling.top_logprobs], v[: one.sampling.top_logprobs], strict=True)) for one, i, v in zip(said, ids.tolist(), values.tolist(), strict=True)]
    return [Choice(token, logprob, top) if fits else None for fits, token, logprob, top in zip(sound, tokens.tolist(), logprobs, tops, strict=True)]


def _edit(row: torch.Tensor, one: Said) -> None:
    """Penalties, biases and the grammar, in place on logits [vocabulary]."""
    sampling = one.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(token for token in {*one.prompt, *one.answer} if token < len(row)), dtype=torch.long)  # virtual tokens lie behind the vocabulary
        there = row[seen]
        row[seen] = torch.where(there > 0, there / sampling.repetition_penalty, there * sampling.repetition_penalty)
    if (sampling.frequency_penalty or sampling.presence_penalty) and one.answer:
        written, often = torch.unique(torch.tensor(one.answer), return_counts=True)
        row[written] -= often * sampling.frequency_penalty + sampling.presence_penalty
    for token, bias in sampling.logit_bias.items():
        row[token] += bias
    if one.allowed is not None:
        row.masked_fill_(~one.allowed, float("-inf"))


def _draw(logits: torch.Tensor, said: Sequence[Said]) -> torch.Tensor:
    """int64 [requests]: temperature, then top_k, then top_p, then min_p, then one draw by the inverse of the distribution function; -1 as `_inverse`."""
    scaled = logits / torch.tensor([[one.sampling.temperature] for one in said])
    chance = torch.tensor([[random_key(one.sampling.seed, "token", one.sampling.request, len(one.answer)) / 2**63] for one in said], dtype=torch.float64)
    limited = [bool(one.sampling.top_k) or one.sampling.top_p < 1 or one.sampling.min_p > 0 for one in said]
    found = torch.empty(len(said), dtype=torch.long)
    for wanted in (False, True):
        rows = [i for i, one in enumerate(limited) if one is wanted]
        if not rows:
            continue
        part, luck = scaled[rows], chance[rows]
        found[rows] = _limited(part, luck, [said[i].sampling for i in rows], HEAD) if wanted else _inverse(part.softmax(-1), luck)
    return found


def _limited(scaled: torch.Tensor, chance: torch.Tensor, samplings: Sequence[Sampling], head: int) -> torch.Tensor:
    """Draws among the likeliest tokens; where the first `head` of them do not settle it, all are sorted."""
    vocabulary = scaled.shape[1]
    head = min(vocabulary, max(head, *(one.top_k for one in samplings)))
    values, ids = scaled.topk(head, -1)  # sorted
    probabilities = (values - scaled.logsumexp(-1, keepdim=True)).exp()
    top_k = torch.tensor([[one.top_k or vocabulary] for one in samplings])
    top_p = torch.tensor([[one.top_p] for one in samplings])
    min_p = torch.tensor([[one.min_p] for one in samplings])
    kept = probabilities.masked_fill(torch.arange(head) >= top_k, 0.0)
    whole = torch.where(top_k < vocabulary, kept.sum(-1, keepdim=True), torch.ones(()))
    before = kept.cumsum(-1) - kept
    inside = before < top_p * whole
    inside = inside & (probabilities >= min_p * probabilities[:, :1])
    inside[:, 0] = True
    kept = kept.masked_fill(~inside, 0.0)
    if head < vocabulary and bool((inside[:, -1] & (top_k > head).squeeze(1)).any()):
        return _limited(scaled, chance, samplings, vocabulary)
    place = _inverse(kept, chance)
    return torch.where(place < 0, place, ids.gather(1, place.clamp(min=0).unsqueeze(1)).squeeze(1))


def _inverse(weights: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """The first place at which the running sum of weights [rows, n] exceeds chance x total; -1 where the total is no number above 0."""
    sums = weights.double().cumsum(-1)
    place = torch.searchsorted(sums, chance * sums[:, -1:], right=True).squeeze(1)
    last = (weights > 0).long().mul(torch.arange(1, weights.shape[1] + 1)).amax(-1) - 1  # rounding must not lead behind the last possible one
    return torch.minimum(place, last).masked_fill(~(sums[:, -1] > 0), -1)
