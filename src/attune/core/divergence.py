"""How far one language model's next words are from another's, from hidden states: logits are formed a few rows at a time and never kept, the gradient is formed on the way."""

from __future__ import annotations

from typing import Any, Literal

import torch

from attune.core.losses import ROWS, finished, formed_forward, formed_gradients

Kind = Literal["forward", "reverse", "jensen_shannon"]


class _Divergence(torch.autograd.Function):
    """Sum over rows; only the student gets a gradient."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, teacher: tuple[Any, ...], facts: tuple[Any, ...]) -> torch.Tensor:
        softcap, kind, share, temperature, number, learning = facts
        known, known_weight, known_bias, known_softcap = teacher
        other, other_table = known.to(number), known_weight.to(number)
        words = min(len(weight), len(other_table))

        def score(begin: int, logits: torch.Tensor, sloped: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
            theirs, _ = finished(other[begin : begin + len(logits)] @ other_table.T, known_bias, known_softcap)
            own = (logits[:, :words] / temperature).log_softmax(-1)
            value, slope = _one(own, (theirs[:, :words] / temperature).log_softmax(-1), kind, share)
            if not sloped:
                return value * temperature**2, None
            whole = torch.zeros_like(logits)
            whole[:, :words] = slope * temperature
            return value * temperature**2, whole

        return formed_forward(context, hidden, weight, bias, softcap, number, learning, score, ROWS)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*formed_gradients(context, outer[0]), None, None)


def _one(own: torch.Tensor, theirs: torch.Tensor, kind: Kind, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of a divergence, and its slope by the student's logits; both arguments are log-probabilities [rows, words]."""
    mine, known = own.exp(), theirs.exp()
    if kind == "forward":
        return (known * (theirs - own)).sum(), mine - known
    if kind == "reverse":
        apart = own - theirs
        return (mine * apart).sum(), mine * (apart - (mine * apart).sum(-1, keepdim=True))
    middle = (share * known + (1 - share) * mine).clamp(min=1e-38).log()
    apart = own - middle
    value = share * (known * (theirs - middle)).sum() + (1 - share) * (mine * apart).sum()
    return value, (1 - share) * mine * (apart - (mine * apart).sum(-1, keepdim=True))


def linear_divergence(
    hidden: torch.Tensor,
    output: tuple[torch.nn.Linear, float | None],
    teacher: torch.Tensor,
    teacher_output: tuple[torch.nn.Linear, float | None],
    kind: Kind,
    *,
    temperature: float = 1.0,
    share: float = 0.5,
) -> torch.Tensor:
    """Sum over rows of a divergence between two output layers, times temperature squared, so that gradients keep their size (Hinton et al. 2015, section 2).

    Args:
        hidden: the student's states [rows, width].
        output: its output layer and the cap of its logits.
        teacher: the teacher's states [rows, its width]; without a gradient.
        teacher_output: its output layer and the cap of its logits. Where the two layers differ in length, the words that both have count.
        kind: forward (KL of the teacher from the student), reverse, or jensen_shannon (Agarwal et al. 2024, eq. 1).
        temperature: logits are divided by it.
        share: the teacher's share of the middle of jensen_shannon.

    Returns:
        float32 scalar; logits are formed in the autocast type where one is on.
    """
    number = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    (own, cap), (other, other_cap) = output, teacher_output
    with torch.autocast("cpu", enabled=False):
        known = (teacher.detach(), other.weight.detach(), None if other.bias is None else other.bias.detach(), other_cap)
        found: torch.Tensor = _Divergence.apply(hidden, own.weight, own.bias, known, (cap, kind, share, temperature, number, torch.is_grad_enabled()))  # type: ignore[no-untyped-call]
    return found
