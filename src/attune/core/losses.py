"""The output layer and its loss in one: logits are formed a few rows at a time and never kept, gradients are formed on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from attune.core import recurring

ROWS = 1280
"""Rows of one product with the output layer at most, a multiple of `recurring.LENGTH`: it bounds memory. More products are slower by a pass each (`_at_once`)."""
PIECE = 32
"""Rows of float32 logits at once: so few that they stay in the processor's cache while they are looked at several times (measured, lab/LOG.md)."""


Score = Callable[[int, torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor | None]]
"""Where the rows begin, their logits, whether slopes are wanted -> sum of the losses, slopes by the capped logits. It may write into the logits."""


def formed_forward(
    context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None, kind: torch.dtype, learning: bool, score: Score, piece: int = PIECE
) -> torch.Tensor:
    """The sum of a loss of the output layer's logits, `piece` rows at a time; gradients by hidden, weight and bias are formed on the way and kept."""
    wanted = [learning and one for one in context.needs_input_grad[:3]]  # which does not know about no_grad
    source, table = _source(hidden, kind), weight.to(kind)
    total = hidden.new_zeros((), dtype=torch.float32)
    to_hidden = torch.empty_like(source) if wanted[0] else None
    to_weight: torch.Tensor | None = None
    to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
    sloped = any(wanted)
    rows = _at_once(source)
    for begin in range(0, len(source), rows):
        part = source[begin : begin + rows]
        product = part @ table.T
        given = product[: len(hidden) - begin]  # of filled-up rows it is 0, so that slopes of 0 stand there, too
        for first in range(0, len(given), piece):
            own = given[first : first + piece]
            logits, capped = finished(own, bias, softcap)
            value, slope = score(begin + first, logits, sloped)
            total += value
            if slope is None:
                continue
            if capped is not None:
                slope *= 1 - capped**2
            if to_bias is not None:
                to_bias += slope.sum(0)
            own.copy_(slope)  # the slopes take the place of the logits
        if to_hidden is not None:
            torch.mm(product, table, out=to_hidden[begin : begin + rows])
        if wanted[1]:
            to_weight = _added(to_weight, product.T @ part)
    if wanted[1] and to_weight is None:
        to_weight = torch.zeros(weight.shape, dtype=torch.float32)
    to_hidden = None if to_hidden is None else to_hidden[: len(hidden)]
    context.save_for_backward(*(t for t in (to_hidden, to_weight, to_bias) if t is not None))
    context.kept = [t is not None for t in (to_hidden, to_weight, to_bias)]
    context.kinds = (hidden.dtype, weight.dtype, None)
    return total


def formed_gradients(context: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """What `formed_forward` kept, times the gradient of its sum, in the types of hidden, weight and bias."""
    kept = iter(context.saved_tensors)
    alone = float(outer) == 1.0  # nothing was done to the sum: no need to copy gradients as large as the output layer
    found = [(next(kept) if alone else next(kept) * outer) if there else None for there in context.kept]
    return tuple(None if t is None else t.to(kind) if kind else t for t, kind in zip(found, context.kinds, strict=True))


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of hidden @ weight.T + bias (Wijmans et al. 2024, 'Cut Your Losses', section 4, without its gradient filter)."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, softcap: float | None, kind: torch.dtype, learning: bool) -> torch.Tensor:
        def score(begin: int, logits: torch.Tensor, sloped: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
            right = targets[begin : begin + len(logits)].unsqueeze(1)
            likely = logits.log_softmax(-1)
            value = -likely.gather(1, right).sum()
            return value, likely.exp_().scatter_add_(1, right, -torch.ones(len(right), 1)) if sloped else None

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
        source, table = _source(hidden, kind), weight.to(kind)
        rows = _at_once(source)
        for begin in range(0, len(source), rows):
            product = (source[begin : begin + rows] @ table.T)[: len(hidden) - begin]
            for first in range(0, len(product), PIECE):
                logits, _ = finished(product[first : first + PIECE], bias, softcap)
                own = slice(begin + first, begin + first + len(logits))
                found[own] = logits.log_softmax(-1).gather(1, targets[own].unsqueeze(1)).squeeze(1)
        return found

    @staticmethod
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, *rest = context.saved_tensors
        bias = rest[0] if rest else None
        softcap, kind = context.facts
        wanted = context.needs_input_grad
        source, table = _source(hidden, kind), weight.to(kind)
        to_hidden = hidden.new_empty(source.shape) if wanted[0] else None
        to_weight: torch.Tensor | None = None
        to_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        rows = _at_once(source)
        for begin in range(0, len(source), rows):
            part = source[begin : begin + rows]
            product = part @ table.T
            given = product[: len(hidden) - begin]  # as in `formed_forward`
            for first in range(0, len(given), PIECE):
                logits, capped = finished(given[first : first + PIECE], bias, softcap)
                own = slice(begin + first, begin + first + len(logits))
                slope = torch.softmax(logits, -1)
                slope.scatter_add_(1, targets[own].unsqueeze(1), -torch.ones(len(logits), 1))
                if capped is not None:
                    slope *= 1 - capped**2
                slope *= -outer[0][own].unsqueeze(1)
                if to_bias is not None:
                    to_bias += slope.sum(0)
                given[first : first + PIECE] = slope
            if to_hidden is not None:
                to_hidden[begin : begin + rows] = product @ table
            if wanted[1]:
                to_weight = _added(to_weight, product.T @ part)
        if wanted[1] and to_weight is None:
            to_weight = torch.zeros(weight.shape, dtype=torch.float32)
        return None if to_hidden is None else to_hidden[: len(hidden)], None if to_weight is None else to_weight.to(weight.dtype), to_bias, None, None, None


def _source(hidden: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """hidden [rows, width] in this number format, filled up with zeros to a length that comes again where that pays."""
    return recurring.filled(hidden.to(kind), recurring.missing(len(hidden), kind))


def _at_once(source: torch.Tensor) -> int:
    """Rows of one product: as few products as `ROWS` allows, about equal, because each costs a pass over a gradient as large as the output layer."""
    rows = math.ceil(len(source) / max(1, math.ceil(len(source) / ROWS))) or 1
    return rows + recurring.missing(rows, source.dtype)


def _added(sums: torch.Tensor | None, product: torch.Tensor) -> torch.Tensor:
    """float32 sums with one product more; the first one begins them."""
    return product.float() if sums is None else sums.add_(product)


def finished(product: torch.Tensor, bias: torch.Tensor | None, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """float32 logits [rows, vocabulary] of what the output layer's product gave, and tanh(logits / softcap) where there is a cap."""
    logits = product.float()
    if bias is not None:
        logits = logits + bias
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
