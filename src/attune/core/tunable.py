"""The torch module every text task shares: a transformers body, an optional head, and the way token vectors become one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from attune.core.errors import PlugError
from attune.core.flat import Fit, fit_of, network_of, options_of, run_flat, run_padded
from attune.core.layers import WORTH, narrow_last
from attune.core.losses import ROWS, linear_cross_entropy, token_log_probabilities
from attune.core.tokens import Tokens
from attune.core.virtual_tokens import virtual_ids

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings by which some families scale their logits outside the output layer."""


class _Given(nn.Module):
    """Stands for the network below an output part, and answers with hidden states that are known."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.hidden)


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
        self.frozen_as: str | None = None
        """What else than the base's files the frozen weights depend on, for example their number format."""
        self.narrowed = False
        """True once the last layer has answered wanted tokens alone."""
        self.noisy = False
        """True while noise on the embeddings differs from row to row."""

    @cached_property
    def fit(self) -> Fit:
        """Whether the body reads rows without padding, found out on first use."""
        return fit_of(self.decoder())

    @cached_property
    def narrows(self) -> bool:
        """Whether the last layer can answer the wanted tokens alone, found out on first use."""
        return self.fit.flat and narrow_last(self.decoder(), self.fit.offset)

    @property
    def shares(self) -> bool:
        """Whether a beginning that several rows share may be computed once (`Tokens.of` with `shareable`)."""
        return self.fit.shares and not self.in_front() and not self.noisy

    def decoder(self) -> Any:
        """The network that makes hidden states: the body, without its output layer where it has one."""
        own = network_of(self.body)
        return own.base_model if own.get_output_embeddings() is not None else self.body

    def in_front(self) -> list[int]:
        """Token ids that the body reads in front of every row: virtual tokens that were learned. `hidden` puts them there itself; who generates has to."""
        return virtual_ids(network_of(self.body))

    def hidden(self, tokens: Tokens, at: torch.Tensor | None = None) -> torch.Tensor:
        """Last hidden states of every token, [total, hidden], as the tokens lie.

        Args:
            tokens: the rows.
            at: int64 [n], places in the line, in any order: states of these alone, [n, hidden].
        """
        first = self.in_front()
        if not first:
            return self._hidden(tokens, at)
        longer = tokens.behind(first)
        room = getattr(network_of(self.body).config, "max_position_embeddings", None)
        if room is not None and int(longer.lengths.max()) > room:
            raise PlugError(
                f"a row of {int(tokens.lengths.max())} tokens behind {len(first)} virtual ones is longer than the {room} that the base reads",
                place="train.max_length",
                fix=f"lower it to {room - len(first)}, or give method.tokens fewer",
            )
        places = longer.starts[tokens.row] + len(first) + tokens.positions[0]
        return self._hidden(longer, places if at is None else places[at])

    def _hidden(self, tokens: Tokens, at: torch.Tensor | None) -> torch.Tensor:
        decoder = self.decoder()
        if self.fit.flat:
            given = self.computed(tokens) if self.computed is not None and self.training else None
            wanted = torch.unique(at) if at is not None and self.narrows else None
            if wanted is not None and not 0 < len(wanted) <= WORTH * len(tokens.row):
                wanted = None
            self.narrowed |= wanted is not None
            found = run_flat(decoder, tokens, self.fit.offset, given, wanted, **options_of(decoder))
        else:
            pad = int(getattr(network_of(decoder).config, "pad_token_id", None) or 0)
            found = run_padded(decoder, tokens, pad, **options_of(decoder))[0][tokens.row, tokens.positions[0]]
        return found if at is None else found[at]

    def features(self, tokens: Tokens) -> torch.Tensor:
        """Pooled vectors, float32 [rows, hidden], in the order the rows were given; rows that share beginnings can be pooled by their last token alone."""
        if self.pooling in ("cls", "last"):
            return self.hidden(tokens, tokens.starts if self.pooling == "cls" else tokens.ends).float()
        hidden = self.hidden(tokens).float()
        return hidden.new_zeros(len(tokens.lengths), hidden.shape[1]).index_add(0, tokens.row, hidden) / tokens.lengths.unsqueeze(1)

    def output_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies of the body's own output layer, for hidden states [n, hidden] and token ids [n]."""
        output, softcap = self._output()
        return linear_cross_entropy(hidden, output, targets, softcap)

    def log_probabilities(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability of each target by the body's own output layer, float32 [n], for hidden states [n, hidden] and token ids [n]."""
        output, softcap = self._output()
        return token_log_probabilities(hidden, output, targets, softcap)

    @property
    def fills_masks(self) -> bool:
        """Whether the body's output layer says what stands at a place (a masked language model), not what comes next."""
        return "ForMaskedLM" in type(network_of(self.body)).__name__

    def vocabulary_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the body's whole output part (transformation, norm, output layer) makes of hidden states [n, hidden]: [n, vocabulary]."""
        own = network_of(self.body)
        above = copy.copy(own)  # the network itself stays as it is: other threads may be asking it
        above._modules = {**own._modules, own.base_model_prefix: _Given(hidden.unsqueeze(0))}
        found: torch.Tensor = above(input_ids=torch.zeros(1, len(hidden), dtype=torch.long)).logits[0]
        return found

    def masked_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies of a masked language model's output part, for hidden states [n, hidden] and token ids [n]."""
        parts = [nn.functional.cross_entropy(self.vocabulary_logits(hidden[begin : begin + ROWS]).float(), targets[begin : begin + ROWS], reduction="sum") for begin in range(0, len(hidden), ROWS)]
        return torch.stack(parts).sum() if parts else hidden.sum() * 0.0

    def output_layer(self) -> tuple[nn.Linear, float | None]:
        """The body's own output layer, and the cap of its logits where it has one."""
        return self._output()

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
