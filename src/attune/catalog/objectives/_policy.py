"""The arithmetic of learning from one's own answers: advantages in a group, clipped ratios, divergence from a reference, and how tokens are averaged."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Batch, Example
from attune.core.errors import PlugError

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel

LEAST_SPREAD = 1e-4
"""Added to a group's spread, so that equal rewards do not divide by zero."""


def advantages(rewards: Sequence[float], scale: str) -> list[float]:
    """How much better than its group's mean each answer is, divided by the group's spread (its sample standard deviation) where wanted."""
    mean = statistics.fmean(rewards)
    spread = statistics.stdev(rewards) + LEAST_SPREAD if scale == "group" else 1.0
    return [(one - mean) / spread for one in rewards]


def laid(model: TunableModel, examples: Sequence[Example]) -> Batch:
    """Prompts and answers in one line; a prompt stands once for its group where the network allows it."""
    import torch

    from attune.core.tokens import Tokens

    pairs = [(one["prompt_ids"], answer, said, gain) for one in examples for answer, said, gain in zip(one["answers"], one["said"], one["advantages"], strict=True)]
    tokens = Tokens.of([[*prompt, *answer] for prompt, answer, _, _ in pairs], [len(prompt) for prompt, *_ in pairs] if model.shares else None)
    learned = tokens.lay([[0] * len(prompt) + [1] * len(answer) for prompt, answer, *_ in pairs]).nonzero().squeeze(1)
    drawn = tokens.lay([[0.0] * len(prompt) + list(said) for prompt, _, said, _ in pairs])[learned]
    sequence = tokens.row[learned]
    gains = torch.tensor([gain for *_, gain in pairs])
    return {"tokens": tokens, "learned": learned, "said": drawn, "sequence": sequence, "advantages": gains[sequence], "sizes": torch.tensor([len(answer) for _, answer, *_ in pairs])}


def log_probabilities(model: TunableModel, batch: Batch, temperature: float) -> torch.Tensor:
    """Of the answers' tokens, float32 [learned], with logits divided by the temperature."""
    tokens, learned = batch["tokens"], batch["learned"]
    hidden = model.hidden(tokens, tokens.before[learned])
    if temperature != 1.0:
        output, softcap = model.output_layer()
        if output.bias is not None or softcap is not None:
            raise PlugError("this base's output layer is not a plain product, so its logits cannot be divided by a temperature", place="objective.temperature", fix="set it to 1")
        hidden = hidden / temperature
    return model.log_probabilities(hidden, tokens.ids[0][learned])


def token_losses(own: torch.Tensor, batch: Batch, level: str, low: float, high: float) -> torch.Tensor:
    """Of each token, minus the clipped gain, float32 [learned]."""
    import torch

    ratio = own - batch["said"]
    if level == "sequence":
        means = torch.zeros(len(batch["sizes"])).index_add(0, batch["sequence"], ratio) / batch["sizes"]
        ratio = means[batch["sequence"]]
    ratio = ratio.exp()
    return -torch.minimum(ratio * batch["advantages"], ratio.clamp(1 - low, 1 + high) * batch["advantages"])


def divergence(own: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """An estimate of the KL divergence from the reference at each token that is never negative (Schulman 2020, 'k3')."""
    apart = reference - own
    return apart.exp() - apart - 1


def summed(each: torch.Tensor, batch: Batch, average: str, longest: int) -> tuple[torch.Tensor, float]:
    """Sum and count of the losses of tokens: their quotient is the mean that is wanted."""
    answers = float(len(batch["sizes"]))
    if average == "token":
        return each.sum(), float(len(each))
    if average == "constant":
        return each.sum() / longest, answers
    whole: Any = (each / batch["sizes"][batch["sequence"]]).sum()
    return whole, answers
