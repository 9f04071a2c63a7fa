"""The dropout of a network while it is tuned: where it is, and whether it is drawn by row, so that micro-batches of another size change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attune.core.flat import KeyedDropout, key_dropout
from attune.core.padded import by_row, learn_layouts
from attune.core.tunable import TunableModel

BY_ROW = "change nothing beyond rounding: what this network answers to a row, dropout and all, does not depend on the rows beside it"
BESIDE = "of another size (or smaller ones, where memory runs out) learn otherwise beyond rounding: what this network answers to a row, with its dropout, depends on the rows beside it"


def dropouts(body: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    """Where a network keeps the rates of its own dropout: modules and their attributes. Those of a method (LoRA's) are not its own."""
    found: list[tuple[torch.nn.Module, str]] = []
    for name, module in body.named_modules():
        if isinstance(module, torch.nn.Dropout):
            found += [(module, "p")] if "lora_dropout" not in name else []
        else:
            found += [(module, one) for one in ("attention_dropout", "dropout") if isinstance(getattr(module, one, None), float)]
    return found


def keyed(model: TunableModel) -> None:
    """Let a model's body draw its dropout by row and place, in place."""
    key_dropout(model.body)
    if not model.fit.flat and not model.body_is_frozen():
        learn_layouts(model.decoder())


class Dropping:
    """Whether what is learned from a row is the same in every micro-batch, dropout and all.

    Args:
        model: of `keyed`, its rates set.
        sites: where its network's own rates are.
    """

    def __init__(self, model: TunableModel, sites: Sequence[tuple[torch.nn.Module, str]]) -> None:
        self._modules = [module for module in model.body.modules() if isinstance(module, KeyedDropout)]
        self.words: str | None = None
        """Of micro-batches, for the run's record; None where it goes without saying."""
        self.by_row = True
        """As tried before the first step, so that it is the same when a run goes on."""
        drops = any(module.p for module in self._modules) or any(getattr(module, attribute) for module, attribute in sites)
        if not model.body_is_frozen() and (drops or not model.fit.flat):
            self.by_row = by_row(model.body, model.hidden)
            self.words = BESIDE if not self.by_row else None if model.fit.flat else BY_ROW

    def look(self) -> str | None:
        """`words`, after a step: a dropout may have been given what no trial gave it, and have drawn from torch's own stream."""
        if self.by_row and any(module.strayed for module in self._modules):
            self.words = BESIDE
        return self.words
