"""What a run does and in which order: pure functions of the seed, and the choices made once at its start."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from attune.core.randomness import generator
from attune.core.recipe import Recipe

GROUP = 50
"""Batches whose rows are sorted by length together; enough to save padding, few enough to keep batches mixed."""

LONG_ROWS = 64
"""Rows of so many tokens on average, laid without padding, are not grouped by length: it would save nothing, and the batch of the longest
rows would need far more memory than the others (measured, lab/LOG.md)."""


def patience(recipe: Recipe) -> float:
    """Evaluations without a better main metric after which training stops; infinite where the last step's weights are kept, whatever the validation rows say."""
    keys = recipe.keys.train
    return math.inf if (keys.keep or recipe.objective.keeps) == "last" else keys.patience


def group_of(sizes: Sequence[int], unpadded: bool) -> int:
    """How many batches have their rows sorted by length together."""
    return 1 if unpadded and sum(sizes) >= LONG_ROWS * len(sizes) else GROUP


def length_grouped(sizes: Sequence[int], batch_size: int, seed: int, epoch: int, group: int = GROUP) -> list[list[int]]:
    """Batches of indexes for an epoch: shuffled, then `group` batches' rows sorted by size together so that little is padded, then the batches shuffled.

    Every index stands in exactly one batch. The order depends on (seed, epoch, sizes, group) and nothing else.
    """
    draw = generator(seed, "order", epoch)
    shuffled = draw.permutation(len(sizes))
    batches: list[list[int]] = []
    for begin in range(0, len(shuffled), batch_size * group):
        chunk = sorted((int(i) for i in shuffled[begin : begin + batch_size * group]), key=lambda i: sizes[i])
        batches += [chunk[start : start + batch_size] for start in range(0, len(chunk), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def evened(batches: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The same rows in `count` batches, of which there must not be more than rows: the largest are halved, or the smallest dealt out to the next smallest."""
    found = [list(batch) for batch in batches]
    while len(found) < count:
        largest = max(range(len(found)), key=lambda i: len(found[i]))
        half = len(found[largest]) // 2
        found += [found[largest][half:]]
        found[largest] = found[largest][:half]
    while len(found) > count:
        for row in found.pop(min(range(len(found)), key=lambda i: len(found[i]))):
            min(found, key=len).append(row)
    return found


def rate_factor(step: int, total: int, warmup_ratio: float, scheduler: str) -> float:
    """The learning rate of step `step` (from 0) as a share of the peak."""
    warmup = max(1, round(total * warmup_ratio)) if warmup_ratio else 0
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if scheduler == "linear":
        return max(0.0, 1 - done)
    if scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return 1.0


def choose_precision(wanted: str) -> tuple[str, str]:
    """fp32 or bf16 and why: for `auto`, five matrix products of each, after one to warm up."""
    if wanted != "auto":
        return wanted, "set in the recipe"
    import torch

    left, right = torch.ones(1024, 384), torch.ones(384, 1536)
    seconds = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = left.to(kind), right.to(kind)
        a @ b
        took = []
        for _ in range(5):
            begin = time.perf_counter()
            a @ b
            took.append(time.perf_counter() - begin)
        seconds[name] = sorted(took)[2]
    gain = seconds["fp32"] / max(seconds["bf16"], 1e-9)
    if gain >= 1.3:
        return "bf16", f"matrix products run {gain:.1f} times as fast as in fp32 on this processor"
    return "fp32", f"bf16 matrix products would run {gain:.1f} times as fast: not enough"


def start_plan(precision: str | None) -> dict[str, Any]:
    """The choices of a fresh run; kept in its folder, so that a resume makes the same ones. None: no matrix products, so no number format."""
    import torch

    threads = {"threads": torch.get_num_threads()}
    if precision is None:
        return threads
    chosen, why = choose_precision(precision)
    return {"precision": chosen, "precision_why": why, **threads}
