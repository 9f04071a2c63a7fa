"""torch.compile for the dense parts of a network's layers: what stands outside attention and dropout, whose groups and draws change with every batch.

Which way is faster depends on processor, network and batch, so that `auto` measures both ways before the first step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from attune.core.flat import KeyedDropout
from attune.core.layers import dense_parts, layers_of
from attune.core.memory import ran_out

EXPECTED, POSSIBLE = 20.0, 0.15
"""Seconds that compiling takes at least, and the share of a step that it saved at most, on the networks measured (lab/LOG.md)."""
AGREES = {"fp32": 1e-3, "bf16": 2e-2}
"""The loss of a batch may differ by this share of it: products are summed in another order."""


class Unusable(Exception):
    """Nothing can be compiled here; says why."""


def compilable(body: Any) -> list[nn.Module]:
    """The dense parts of the layers with weights to train, or above such."""
    layers = layers_of(body)
    if layers is None:
        return []
    frozen = next((i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())), len(layers))
    return [part for layer in list(layers)[frozen:] for part in dense_parts(layer)]


class Compiling:
    """The switch between a network as it is and its dense parts compiled; evaluation never runs compiled.

    Args:
        body: the network.
    """

    def __init__(self, body: Any) -> None:
        self.parts = compilable(body)
        self._own = {part: part.forward for part in self.parts}
        self.on = False

    def switch(self, on: bool) -> None:
        """Compiling itself happens when a part is first run."""
        for part, own in self._own.items():
            part.forward = _in_training(part, own) if on else own  # type: ignore[method-assign]
            for inner in part.modules():
                if on and isinstance(inner, KeyedDropout):
                    inner.forward = torch.compiler.disable(inner.forward)  # type: ignore[method-assign, no-untyped-call]
        self.on = on

    def choose(self, wanted: str, run: Callable[[int], float], batches: Sequence[int], steps: int, precision: str) -> str:
        """Switch as it is best; returns what was chosen, and why.

        Args:
            wanted: on or auto.
            run: computes the gradients of a batch and returns its loss; changes nothing.
            batches: to measure with.
            steps: still to come, as the plan has them.
            precision: fp32 or bf16.

        Raises:
            Unusable: it was to be on and cannot.
        """
        run(batches[0])
        plain, losses = _timed(run, batches)
        if wanted == "auto" and plain * steps * POSSIBLE < EXPECTED:
            return f"off: {steps} steps take {plain * steps:,.0f} s, of which compiling could save less than the {EXPECTED:.0f} s that it takes"
        self.switch(True)
        began = time.perf_counter()
        try:
            for index in dict.fromkeys((batches[0], batches[-1])):
                run(index)
            spent = time.perf_counter() - began
            compiled, others = _timed(run, batches)
        except RuntimeError as error:  # all that torch's compiler raises
            self.switch(False)
            if ran_out(error):
                raise
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
            if wanted == "on":
                raise Unusable(why) from error
            return f"off: it cannot be compiled here ({why})"
        apart = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(losses, others, strict=True))
        figures = f"{1e3 * plain:,.0f} ms a step without, {1e3 * compiled:,.0f} ms with, {spent:,.0f} s to compile, {steps} steps to come; losses agree to {apart:.0e}"
        keep = wanted == "on" or (apart <= AGREES[precision] and pays(plain, compiled, spent, steps))
        if not keep:
            self.switch(False)
        return f"{'on' if keep else 'off'}{': set in the recipe' if wanted == 'on' else ''}: {figures}"


def pays(plain: float, compiled: float, spent: float, steps: int) -> bool:
    """Whether seconds saved in so many steps are more than those spent."""
    return (plain - compiled) * steps > spent


def _in_training(part: nn.Module, own: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(own, dynamic=True)

    def forward(*args: Any, **options: Any) -> Any:
        return (compiled if part.training and torch.is_grad_enabled() else own)(*args, **options)

    return forward


def _timed(run: Callable[[int], float], batches: Sequence[int]) -> tuple[float, list[float]]:
    """Median seconds of a batch, and each one's loss."""
    took, losses = [], []
    for index in batches:
        began = time.perf_counter()
        losses.append(run(index))
        took.append(time.perf_counter() - began)
    return statistics.median(took), losses
