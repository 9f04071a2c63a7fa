"""The output layer and its loss in one: logits are formed some rows at a time and never all kept, gradients are formed on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    total = hidden.new_zeros((), dtype=torch.float32)

    def slopes_of(begin: int, logits: torch.Tensor, sloped: bool) -> torch.Tensor | None:
        value, slope = score(begin, logits, sloped)
        total.add_(value)
        return slope

    found = _formed(_source(hidden, kind), weight.to(kind), len(hidden), bias, softcap, slopes_of, wanted, piece)
    context.save_for_backward(*(t for t in found if t is not None))
    context.kept = [t is not None for t in found]
    context.kinds = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
    return total


Slopes = Callable[[int, torch.Tensor, bool], torch.Tensor | None]
"""As `Score`, without the losses."""


def _products(
    source: torch.Tensor, table: torch.Tensor, count: int, bias: torch.Tensor | None, softcap: float | None, slopes_of: Slopes, sloped: bool, to_bias: torch.Tensor | None, piece: int = PIECE
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Of as many rows of `source` as a product has: where they begin, the rows, and their logits, with slopes in their place where `sloped`.

    Rows from `count` on are filled up: their logits are 0, and so are their slopes. The sum of all slopes is added to `to_bias`.
    """

    def product_of(begin: int, part: torch.Tensor) -> torch.Tensor:
        product = part @ table.T
        given = product[: count - begin]
        for first in range(0, len(given), piece):
            own = given[first : first + piece]
            logits, capped = finished(own, bias, softcap)
            slope = slopes_of(begin + first, logits, sloped)
            if slope is None:
                continue
            if capped is not None:
                slope *= 1 - capped**2
            if to_bias is not None:
                to_bias.add_(slope.sum(0))
            own.copy_(slope)
        return product

    rows = _at_once(source)
    for begin in range(0, len(source), rows):
        part = source[begin : begin + rows]
        yield begin, part, product_of(begin, part)


Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
"""By hidden, weight and bias."""


def _formed(source: torch.Tensor, table: torch.Tensor, count: int, bias: torch.Tensor | None, softcap: float | None, slopes_of: Slopes, wanted: Sequence[bool], piece: int = PIECE) -> Gradients:
    """The gradients that are wanted, from slopes by the logits of the first `count` rows of `source`."""
    to_hidden = torch.empty_like(source) if wanted[0] else None
    to_weight: torch.Tensor | None = None
    to_bias = torch.zeros(len(table)) if wanted[2] else None
    for begin, part, slopes in _products(source, table, count, bias, softcap, slopes_of, any(wanted), to_bias, piece):
        if to_hidden is not None:
            torch.mm(slopes, table, out=to_hidden[begin : begin + len(part)])
        if wanted[1]:
            to_weight = _added(to_weight, slopes.T @ part)
        del slopes  # before the next ones are formed
    if wanted[1] and to_weight is None:
        to_weight = torch.zeros(table.shape)
    return None if to_hidden is None else to_hidden[:count], to_weight, to_bias


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
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
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
    """log softmax(hidden @ weight.T + bias) at the targets.

    However tokens are weighed later, the slopes of a row are only multiplied. So gradients are formed on the way there, without these weights: by hidden, and from slopes that are kept by
    weight and bias. Where several products are needed and weight or bias train, slopes would be too much to keep: they are formed on the way back.
    """

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, softcap: float | None, kind: torch.dtype, learning: bool) -> torch.Tensor:
        wanted = [learning and one for one in context.needs_input_grad[:3]]
        output_learns = wanted[1] or wanted[2]
        found = hidden.new_empty(len(hidden), dtype=torch.float32)
        source, table = _source(hidden, kind), weight.to(kind)
        formed = any(wanted) and (not output_learns or 0 < len(source) <= ROWS)
        to_hidden = torch.empty_like(source) if formed and wanted[0] else None
        kept: torch.Tensor | None = None

        def slopes_of(begin: int, logits: torch.Tensor, sloped: bool) -> torch.Tensor | None:
            right = targets[begin : begin + len(logits)].unsqueeze(1)
            likely = logits.log_softmax(-1)
            found[begin : begin + len(logits)] = likely.gather(1, right).squeeze(1)
            return _rising(likely.exp_(), right) if sloped else None

        for begin, part, slopes in _products(source, table, len(hidden), bias, softcap, slopes_of, formed, None):
            if to_hidden is not None:
                torch.mm(slopes, table, out=to_hidden[begin : begin + len(part)])
            if formed and output_learns:
                kept = slopes
            del slopes
        known = (to_hidden, kept, source if wanted[1] else None) if formed else (source, weight, bias, targets) if any(wanted) else ()
        context.save_for_backward(*known)
        context.facts = (formed, wanted, softcap, (hidden.dtype, weight.dtype, None if bias is None else bias.dtype))
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        formed, wanted, softcap, numbers = context.facts
        factors = outer[0].unsqueeze(1)
        found = (_weighed if formed else _formed_back)(context.saved_tensors, factors, wanted, softcap)
        return (*(None if one is None else one.to(number) for one, number in zip(found, numbers, strict=True)), None, None, None, None)


def _weighed(known: Sequence[torch.Tensor], factors: torch.Tensor, wanted: Sequence[bool], _softcap: float | None) -> Gradients:
    """From what was formed on the way there: every row's slopes times its factor, float32 [rows, 1]."""
    to_hidden, kept, source = known
    to_weight = kept.T @ (source * recurring.filled(factors, len(source) - len(factors))).to(source.dtype) if wanted[1] else None
    to_bias = None
    if wanted[2]:
        to_bias = factors.new_zeros(kept.shape[1])
        for first in range(0, len(factors), PIECE):
            some = factors[first : first + PIECE]
            to_bias += (kept[first : first + len(some)] * some).sum(0)
    return None if to_hidden is None else to_hidden[: len(factors)] * factors, to_weight, to_bias


def _formed_back(known: Sequence[torch.Tensor], factors: torch.Tensor, wanted: Sequence[bool], softcap: float | None) -> Gradients:
    """The logits once more, some rows at a time."""
    source, weight, bias, targets = known

    def slopes_of(begin: int, logits: torch.Tensor, _sloped: bool) -> torch.Tensor:
        own = slice(begin, begin + len(logits))
        return _rising(torch.softmax(logits, -1), targets[own].unsqueeze(1)).mul_(factors[own])

    return _formed(source, weight.to(source.dtype), len(factors), bias, softcap, slopes_of, wanted)


def _rising(likely: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The slopes of a log-probability by the logits, in place of the probabilities [rows, vocabulary]; right int64 [rows, 1]."""
    return likely.neg_().scatter_add_(1, right, torch.ones(len(right), 1))


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

    For losses that weigh tokens by what the others are (preference and reward objectives).
    """
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    with torch.autocast("cpu", enabled=False):
        found: torch.Tensor = _TokenLogProbabilities.apply(hidden, output.weight, output.bias, targets, softcap, kind, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return found
