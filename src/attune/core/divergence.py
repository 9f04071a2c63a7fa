"""How far one language model's next words are from another's, from hidden states: logits are formed a few rows at a time and never kept, the gradient is formed on the way."""

from __future__ import annotations

from typing import Any, Literal

import torch

from attune.core.losses import ROWS, _logits

Kind = Literal["forward", "reverse", "jensen_shannon"]


class _Divergence(torch.autograd.Function):
    """Sum over rows; only the student gets a gradient."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, teacher: tuple[Any, ...], facts: tuple[Any, ...]) -> torch.Tensor:
        softcap, kind, share, temperature, number, learning = facts
        known, known_weight, known_bias, known_softcap = teacher
        wanted = [learning and one for one in context.needs_input_grad[:3]]
        source, table, other, other_table = (one.to(number) for one in (hidden, weight, known, known_weight))
        words = min(len(table), len(other_table))
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden = torch.empty_like(source) if wanted[0] else None
        to_weight = torch.zeros(weight.shape, dtype=torch.float32) if wanted[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        for begin in range(0, len(source), ROWS):
            part = source[begin : begin + ROWS]
            logits, capped = _logits(part, table, bias, softcap)
            theirs, _ = _logits(other[begin : begin + ROWS], other_table, known_bias, known_softcap)
            own = (logits[:, :words] / temperature).log_softmax(-1)
            value, slope = _one(own, (theirs[:, :words] / temperature).log_softmax(-1), kind, share)
            total += value * temperature**2
            if to_hidden is None and to_weight is None and to_bias is None:
                continue
            whole = torch.zeros_like(logits)
            whole[:, :words] = slope * temperature
            if capped is not None:
                whole *= 1 - capped**2
            if to_bias is not None:
                to_bias += whole.sum(0)
            low = whole.to(number)
            if to_hidden is not None:
                to_hidden[begin : begin + ROWS] = low @ table
            if to_weight is not None:
                to_weight += low.T @ part
        context.save_for_backward(*(t for t in (to_hidden, to_weight, to_bias) if t is not None))
        context.kept = [t is not None for t in (to_hidden, to_weight, to_bias)]
        context.kinds = (hidden.dtype, weight.dtype, None)
        return total

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept = iter(context.saved_tensors)
        found = [next(kept) * outer[0] if there else None for there in context.kept]
        return (*(None if t is None else t.to(kind) if kind else t for t, kind in zip(found, context.kinds, strict=True)), None, None)


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
