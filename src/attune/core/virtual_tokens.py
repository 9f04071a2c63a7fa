"""Learned vectors in front of every row, as token ids behind a network's vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class VirtualTokens(nn.Module):
    """An embedding with further tokens behind its vocabulary.

    Args:
        whole: the network's embedding.
        start: float32 [tokens, width], what the virtual tokens start as.
    """

    cannot_merge = "the virtual tokens stand in front of each row, not in a weight"

    def __init__(self, whole: nn.Embedding, start: torch.Tensor) -> None:
        super().__init__()
        self.whole = whole
        self.virtual = nn.Parameter(start)

    @property
    def weight(self) -> torch.Tensor:
        """The vocabulary's table."""
        return self.whole.weight

    @property
    def ids(self) -> list[int]:
        """The virtual tokens."""
        size = len(self.whole.weight)
        return list(range(size, size + len(self.virtual)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[..., width] of ids [...]."""
        place = ids - len(self.whole.weight)
        known = self.whole(ids.clamp(max=len(self.whole.weight) - 1))
        return torch.where((place >= 0).unsqueeze(-1), nn.functional.embedding(place.clamp(min=0), self.virtual), known)


def give(network: Any, start: torch.Tensor) -> None:
    """Give a network virtual tokens, in place."""
    network.set_input_embeddings(VirtualTokens(network.get_input_embeddings(), start))


def virtual_ids(network: Any) -> list[int]:
    """Token ids that belong in front of every row that a network reads; none for most."""
    embedding = network.get_input_embeddings()
    return embedding.ids if isinstance(embedding, VirtualTokens) else []
