"""The torch module every text task shares: a transformers body, an optional head, and the way token vectors become one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from attune.core.errors import PlugError
from attune.core.flat import Fit, fit_of, network_of, options_of, run_flat, run_padded
from attune.core.losses import linear_cross_entropy, token_log_probabilities
from attune.core.tokens import Tokens

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings by which some families scale their logits outside the output layer."""


class TunableModel(nn.Module):
    """A pretrained body with an optional head.

    Args:
        body: a transformers network (or a PEFT wrapper of one).
        head: module from pooled features [batch, hidden] to outputs, or None.
        pooling: mean (over a row's tokens), cls (first token) or last (last token).
    """

    def __init__(self, body: Any, head: nn.Module | None = None, pooling: str = "mean") -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.pooling = pooling
        self.computed: Callable[[Tokens], torch.Tensor | None] | None = None
        """While training with frozen lower layers: what they answer to these rows, if it was computed before."""

    @cached_property
    def fit(self) -> Fit:
        """Whether the body reads rows without padding, found out on first use."""
        return fit_of(self.decoder())

    @property
    def shares(self) -> bool:
        """Whether a beginning that several rows share may be computed once (`Tokens.of` with `shareable`)."""
        return self.fit.shares

    def decoder(self) -> Any:
        """The network that makes hidden states: the body, without its output layer where it has one."""
        own = network_of(self.body)
        return own.base_model if own.get_output_embeddings() is not None else self.body

    def hidden(self, tokens: Tokens) -> torch.Tensor:
        """Last hidden states of every token, [total, hidden], as the tokens lie."""
        decoder = self.decoder()
        if self.fit.flat:
            given = self.computed(tokens) if self.computed is not None and self.training else None
            found: torch.Tensor = run_flat(decoder, tokens, self.fit.offset, given, **options_of(decoder))[0][0]
            return found
        pad = int(getattr(network_of(decoder).config, "pad_token_id", None) or 0)
        found = run_padded(decoder, tokens, pad, **options_of(decoder))[0][tokens.row, tokens.positions[0]]
        return found

    def features(self, tokens: Tokens) -> torch.Tensor:
        """Pooled vectors, float32 [rows, hidden], in the order the rows were given; rows that share beginnings can be pooled by their last token alone."""
        hidden = self.hidden(tokens).float()
        if self.pooling == "cls":
            return hidden[tokens.starts]
        if self.pooling == "last":
            return hidden[tokens.ends]
        return hidden.new_zeros(len(tokens.lengths), hidden.shape[1]).index_add(0, tokens.row, hidden) / tokens.lengths.unsqueeze(1)

    def output_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies of the body's own output layer, for hidden states [n, hidden] and token ids [n]."""
        output, softcap = self._output()
        return linear_cross_entropy(hidden, output, targets, softcap)

    def log_probabilities(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability of each target by the body's own output layer, float32 [n], for hidden states [n, hidden] and token ids [n]."""
        output, softcap = self._output()
        return token_log_probabilities(hidden, output, targets, softcap)

    def _output(self) -> tuple[nn.Linear, float | None]:
        """The output layer and the cap of its logits."""
        own = network_of(self.body)
        output = own.get_output_embeddings()
        if type(output) is not nn.Linear or any(getattr(own.config, name, None) not in (None, 1, 1.0) for name in SCALES):
            raise PlugError(
                f"the output layer of a {type(own).__name__} is more than a linear map of its hidden states, so its loss cannot be formed from them",
                place="base_model",
                fix="choose a base of another family",
            )
        return output, getattr(own.config, "final_logit_softcapping", None)

    def body_is_frozen(self) -> bool:
        """True when no parameter of the body trains, so that features can be computed once."""
        return not any(p.requires_grad for p in self.body.parameters())
