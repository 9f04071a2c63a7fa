"""The output layer and its loss in one: logits are formed a few rows at a time and never kept, gradients are formed on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ROWS = 1024
"""Rows of logits at once; between 256 and 4,096 the speed was the same (measured), so this bounds memory only."""


Score = Callable[[int, torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor | None]]
"""Where the rows begin, their logits, whether slopes are wanted -> sum of the losses, slopes by the capped logits."""


def formed_forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None, kind: torch.dtype, learning: bool, score: Score) -> torch.Tensor:
    """The sum of a loss of the output layer's logits, a few rows at a time; gradients by hidden, weight and bias are formed on the way and kept."""
    wanted = [learning and one for one in context.needs_input_grad[:3]]  # which does not know about no_grad
    source, table = hidden.to(kind), weight.to(kind)
    total = hidden.new_zeros((), dtype=torch.float32)
    to_hidden = torch.empty_like(source) if wanted[0] else None
    to_weight = torch.zeros(weight.shape, dtype=torch.float32) if wanted[1] else None
    to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
    sloped = any(one is not None for one in (to_hidden, to_weight, to_bias))
    for begin in range(0, len(source), ROWS):
        part = source[begin : begin + ROWS]
        logits, capped = _logits(part, table, bias, softcap)
        value, slope = score(begin, logits, sloped)
        total += value
        if slope is None:
            continue
        if capped is not None:
            slope *= 1 - capped**2
        if to_bias is not None:
            to_bias += slope.sum(0)
        low = slope.to(kind)
        if to_hidden is not None:
            to_hidden[begin : begin + ROWS] = low @ table
        if to_weight is not None:
            to_weight += low.T @ part
    context.save_for_backward(*(t for t in (to_hidden, to_weight, to_bias) if t is not None))
    context.kept = [t is not None for t in (to_hidden, to_weight, to_bias)]
    context.kinds = (hidden.dtype, weight.dtype, None)
    return total


def formed_gradients(context: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """What `formed_forward` kept, times the gradient of its sum, in the types of hidden, weight and bias."""
    kept = iter(context.saved_tensors)
    found = [next(kept) * outer if there else None for there in context.kept]
    return tuple(None if t is None else t.to(kind) if kind else t for t, kind in zip(found, context.kinds, strict=True))


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of hidden @ weight.T + bias (Wijmans et al. 2024, 'Cut Your Losses', section 4, without its gradient filter)."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, softcap: float | None, kind: torch.dtype, learning: bool) -> torch.Tensor:
        def score(begin: int, logits: torch.Tensor, sloped: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
            right = targets[begin : begin + ROWS].unsqueeze(1)
            spread = logits.logsumexp(-1, keepdim=True)
            value = (spread - logits.gather(1, right)).sum()
            if not sloped:
                return value, None
            slope = logits.sub_(spread).exp_()
            return value, slope.scatter_add_(1, right, -torch.ones(len(right), 1))

        return formed_forward(context, hidden, weight, bias, softcap, kind, learning, score)

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*formed_gradients(context, outer[0]), None, None, None, None)


def linear_cross_entropy(hidden: torch.Tensor, output: torch.nn.Linear, targets: torch.Tensor, softcap: float | None = None) -> torch.Tensor:
    """Sum over rows of the cross-entropy of the output layer.

    Args:
        hidden: [rows, width].
        output: the layer from width to vocabulary.
        targets: int64 [rows].
        softcap: logits become softcap * tanh(logits / softcap), where a network does that.

    Returns:
        float32 scalar; logits are formed in the autocast type where one is on, and summed in float32.
    """
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    with torch.autocast("cpu", enabled=False):
        found: torch.Tensor = _LinearCrossEntropy.apply(hidden, output.weight, output.bias, targets, softcap, kind, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return found


class _TokenLogProbabilities(torch.autograd.Function):
    """log softmax(hidden @ weight.T + bias) at the targets; the way back forms the logits a second time instead of keeping them."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, softcap: float | None, kind: torch.dtype) -> torch.Tensor:
        context.save_for_backward(hidden, weight, targets, *([bias] if bias is not None else []))
        context.facts = (softcap, kind)
        found = hidden.new_empty(len(hidden), dtype=torch.float32)
        table = weight.to(kind)
        for begin in range(0, len(hidden), ROWS):
            logits, _ = _logits(hidden[begin : begin + ROWS].to(kind), table, bias, softcap)
            right = targets[begin : begin + ROWS].unsqueeze(1)
            found[begin : begin + ROWS] = logits.gather(1, right).squeeze(1) - logits.logsumexp(-1)
        return found

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, *rest = context.saved_tensors
        bias = rest[0] if rest else None
        softcap, kind = context.facts
        wanted = context.needs_input_grad
        table = weight.to(kind)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros(weight.shape, dtype=torch.float32) if wanted[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        for begin in range(0, len(hidden), ROWS):
            part, right = hidden[begin : begin + ROWS].to(kind), targets[begin : begin + ROWS].unsqueeze(1)
            logits, capped = _logits(part, table, bias, softcap)
            slope = -torch.softmax(logits, -1)
            slope.scatter_add_(1, right, torch.ones(len(right), 1))
            if capped is not None:
                slope *= 1 - capped**2
            slope *= outer[0][begin : begin + ROWS].unsqueeze(1)
            if to_bias is not None:
                to_bias += slope.sum(0)
            low = slope.to(kind)
            if to_hidden is not None:
                to_hidden[begin : begin + ROWS] = (low @ table).to(hidden.dtype)
            if to_weight is not None:
                to_weight += low.T @ part
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), to_bias, None, None, None


def _logits(part: torch.Tensor, table: torch.Tensor, bias: torch.Tensor | None, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """float32 logits [rows, vocabulary], and tanh(logits / softcap) where there is a cap."""
    logits = (part @ table.T).float()
    if bias is not None:
        logits += bias
    if softcap is None:
        return logits, None
    capped = torch.tanh(logits / softcap)
    return capped * softcap, capped


def token_log_probabilities(hidden: torch.Tensor, output: torch.nn.Linear, targets: torch.Tensor, softcap: float | None = None) -> torch.Tensor:
    """Log-probability of each row's target, float32 [rows], with gradients; arguments as of `linear_cross_entropy`.

    For losses that weigh tokens by what the others are (preference and reward objectives): slower than the fused sum by one product.
    """
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    with torch.autocast("cpu", enabled=False):
        found: torch.Tensor = _TokenLogProbabilities.apply(hidden, output.weight, output.bias, targets, softcap, kind)  # type: ignore[no-untyped-call]
    return found
