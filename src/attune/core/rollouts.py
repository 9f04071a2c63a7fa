"""Answers that a model tries while it learns: sampled so that each depends on its own key alone, not on what else is computed with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attune.core.memory import in_parts
from attune.core.randomness import key
from attune.core.specialist import Specialist

AT_ONCE = 64
"""Answers that are written together."""
ANY = 1 << 60
"""Bytes for keys and values: what is computed together must not depend on how much memory is free, so that a resume draws the same."""


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

    from attune.core.generation import Generator, Request
    from attune.core.sampling import Sampling

    model = specialist.model
    training, first = model.training, model.in_front()

    def written(part: Sequence[int]) -> list[Attempt]:
        samplings = [Sampling(max_tokens=most, temperature=temperature, seed=key(keys[i][0], "attempt", *keys[i][1:]), as_drawn=True) for i in part]
        requests = [Request([*first, *prompts[i]], one, frozenset(stops)) for i, one in zip(part, samplings, strict=True)]
        made = Generator(model.body, slots=AT_ONCE, memory=ANY).run(requests)
        return [Attempt(one.ids, [choice.logprob for choice in one.choices], one.ids[-1] in stops) for one in made]

    model.eval()
    try:
        with torch.no_grad():
            return in_parts(written, range(len(prompts)))
    finally:
        model.train(training)
