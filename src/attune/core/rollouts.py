"""Answers that a model tries while it learns: sampled so that each depends on its own key alone, not on what else is computed with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attune.core.memory import in_parts
from attune.core.randomness import generator
from attune.core.specialist import Specialist, by_length, pad_id

if TYPE_CHECKING:
    import torch

AT_ONCE = 64
"""Answers that are written together."""


@dataclass(frozen=True)
class Attempt:
    """One sampled answer."""

    ids: list[int]
    """Its tokens, the end token included where it ended by itself."""
    said: list[float]
    """Log-probability of each token when it was chosen, at the sampling temperature."""
    ended: bool


def attempts(specialist: Specialist, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, ...]], *, stops: Sequence[int], most: int, temperature: float) -> list[Attempt]:
    """One answer to every prompt, in order; in evaluation mode, without gradients.

    Args:
        specialist: whose model answers.
        prompts: token ids.
        keys: of each answer, what its draws come from: (seed, step, row, sample).
        stops: tokens that end an answer.
        most: tokens of an answer at most.
        temperature: logits are divided by it.
    """
    import torch

    model = specialist.model
    training = model.training
    model.eval()
    found: list[Any] = [None] * len(prompts)
    try:
        with torch.no_grad():
            for index in by_length([len(one) for one in prompts], AT_ONCE):
                made = in_parts(lambda part: _written(specialist, [prompts[i] for i in part], [keys[i] for i in part], list(stops), most, temperature), index)
                for i, one in zip(index, made, strict=True):
                    found[i] = one
    finally:
        model.train(training)
    return found


def _written(specialist: Specialist, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, ...]], stops: list[int], most: int, temperature: float) -> list[Attempt]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    longest, pad = max(len(one) for one in prompts), pad_id(specialist.tokenizer)
    tokens = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    draws = torch.stack([torch.from_numpy(generator(key[0], "attempt", *key[1:]).random(most)) for key in keys])
    said: list[torch.Tensor] = []

    def choose(seen: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave the drawn token alone: the first at which the summed probabilities pass the draw."""
        likely = (scores.double() / temperature).log_softmax(-1)
        sums = likely.exp().cumsum(-1)
        drawn = draws[:, seen.shape[1] - longest].unsqueeze(1) * sums[:, -1:]
        chosen = torch.searchsorted(sums, drawn, right=True).clamp(max=scores.shape[1] - 1)
        said.append(likely.gather(1, chosen).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)

    settings = GenerationConfig(max_new_tokens=most, do_sample=False, num_beams=1, eos_token_id=stops, pad_token_id=pad, use_cache=True)  # type: ignore[no-untyped-call]
    found = specialist.model.body.generate(input_ids=tokens, attention_mask=mask, generation_config=settings, logits_processor=LogitsProcessorList([choose]))
    made = []
    for row, own in zip(found[:, longest:].tolist(), torch.stack(said, 1).tolist(), strict=True):
        end = next((place for place, token in enumerate(row) if token in stops), None)
        size = len(row) if end is None else end + 1
        made.append(Attempt(row[:size], own[:size], end is not None))
    return made
