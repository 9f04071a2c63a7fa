"""The embedding table cut down to the tokens that training rows hold: the other rows get no gradient, so all that happens to them is decay.

The table of a multilingual base has more weights than its layers. Optimizer, average, gradient norm and checkpoints then see only what moves.
The mathematics stay those of the whole table: AdamW takes `learning rate x decay` of a weight without gradient in each step, and nothing else
(Loshchilov and Hutter 2019, algorithm 2, with both moments zero).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from attune.core.contracts import Example
from attune.core.flat import network_of


class CompactEmbedding(nn.Module):
    """An embedding whose used rows are the parameter `weight`; the others are kept aside, with what decay has made of them.

    Args:
        whole: the embedding it stands for.
        used: sorted token ids.
    """

    def __init__(self, whole: nn.Embedding, used: torch.Tensor) -> None:
        super().__init__()
        self.whole = [whole]  # in a list: not a part of this module, so its weights are nobody's parameters
        self.used = used
        self.place = torch.full((whole.num_embeddings,), -1)
        self.place[used] = torch.arange(len(used))
        self.weight = nn.Parameter(whole.weight.detach()[used].clone())
        self.left = 1.0
        """The share of an unused row that decay has left."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[..., width] of ids [...]."""
        places = self.place[ids]
        if bool((places >= 0).all()):
            return nn.functional.embedding(places, self.weight)
        whole = self.whole[0].weight.detach()
        return torch.where((places >= 0).unsqueeze(-1), nn.functional.embedding(places.clamp(min=0), self.weight), nn.functional.embedding(ids, whole) * self.left)

    def restored(self) -> nn.Embedding:
        """The whole embedding with the weights as they are now."""
        whole = self.whole[0]
        with torch.no_grad():
            whole.weight.mul_(self.left)
            whole.weight[self.used] = self.weight
        return whole


def compacted(body: Any, examples: Sequence[Example]) -> CompactEmbedding | None:
    """Put a compact embedding into a body that trains its own, and return it; None where that cannot be, or would save little.

    It cannot be where the output layer shares the table, where a padding row is held still by the embedding and in use, or where the
    embedding is of another make.
    """
    if not all("ids" in one for one in examples):
        return None
    network = network_of(body)
    whole = network.get_input_embeddings()
    if type(whole) is not nn.Embedding or not whole.weight.requires_grad or whole.max_norm is not None or whole.scale_grad_by_freq:
        return None
    output = network.get_output_embeddings()
    if output is not None and output.weight is whole.weight:
        return None
    rows = (row for one in examples for row in (one["ids"].values() if isinstance(one["ids"], dict) else [one["ids"]]))
    used = torch.tensor(sorted({token for row in rows for token in row}))
    if len(used) > whole.num_embeddings // 2 or whole.padding_idx in used.tolist():
        return None
    compact = CompactEmbedding(whole, used)
    network.set_input_embeddings(compact)
    return compact
