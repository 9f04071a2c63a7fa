"""The torch module every text task shares: a transformers body, an optional head, and the way token vectors become one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TunableModel(nn.Module):
    """A pretrained body with an optional head.

    Args:
        body: a transformers network (or a PEFT wrapper of one).
        head: module from pooled features [batch, hidden] to outputs, or None.
        pooling: mean (over unmasked tokens), cls (first token) or last (last unmasked token).
    """

    def __init__(self, body: Any, head: nn.Module | None = None, pooling: str = "mean") -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.pooling = pooling

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Pooled vectors, float32 [batch, hidden], of token ids and mask [batch, length]."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            return hidden[torch.arange(len(hidden)), attention_mask.sum(1) - 1]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)

    def body_is_frozen(self) -> bool:
        """True when no parameter of the body trains, so that features can be computed once."""
        return not any(p.requires_grad for p in self.body.parameters())
