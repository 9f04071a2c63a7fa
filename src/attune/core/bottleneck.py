"""Bottleneck layers behind other layers of a frozen network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": nn.functional.gelu, "relu": nn.functional.relu, "silu": nn.functional.silu}


class Bottleneck(nn.Module):
    """A module of a network with a bottleneck behind it: its answer plus up(activation(down(answer))). Starts as the identity, because `up` starts at zero.

    Args:
        inner: the module; it answers with a tensor [..., width] or with a tuple whose first part is one.
        width: of its answers.
        size: of the bottleneck.
        activation: one of `ACTIVATIONS`.
    """

    cannot_merge = "it computes something non-linear between the base's layers"

    def __init__(self, inner: Any, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        self.activation = ACTIVATIONS[activation]
        nn.init.normal_(self.down.weight, std=width**-0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """As the inner module, with the bottleneck's part added."""
        found = self.inner(*inputs, **options)
        if isinstance(found, tuple):
            return (self._behind(found[0]), *found[1:])
        return self._behind(found)

    def _behind(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.up(self.activation(self.down(x)))
        return x + added.to(x.dtype)


def insert(network: Any, places: list[str], size: int, activation: str) -> None:
    """Put a bottleneck behind each of the named modules, in place."""
    width = network.config.get_text_config().hidden_size
    for name in places:
        above, _, own = name.rpartition(".")
        setattr(network.get_submodule(above), own, Bottleneck(network.get_submodule(name), width, size, activation))


def weights(network: Any) -> dict[str, nn.Parameter]:
    """The bottlenecks' parameters: 'name of the module that it stands behind.down.weight' ..."""
    return {f"{place}.{name}": p for place, one in network.named_modules() if isinstance(one, Bottleneck) for name, p in one.named_parameters() if not name.startswith("inner.")}
