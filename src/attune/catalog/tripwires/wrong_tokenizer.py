"""The untouched base finds the rows less likely than chance: tokenizer and weights belong to different models, or the weights are damaged."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import IntegrityError
from attune.core.tripwires import spread, token_rows

ROWS = 12
WORSE = 1.0
"""So much (in nats per token) above the loss of guessing; a network of random weights stays well below."""


class WrongTokenizer(Tripwire):
    """Compares the loss per token over whole rows with that of a uniform guess, the logarithm of the vocabulary's size."""

    requires = frozenset({"text-out"})
    error = IntegrityError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm with both numbers."""
        from attune.core.flat import network_of
        from attune.core.tokens import Tokens

        model = context.specialist.model
        table = network_of(model.body).get_input_embeddings().weight
        ids = [ids for one in spread(context.examples, ROWS) for ids in token_rows(one)[:1] if len(ids) > 1]
        room = getattr(network_of(model.body).config, "max_position_embeddings", None) or 1 << 30
        ids = [one for one in ids if max(one) < len(table) and len(one) <= room]
        if not ids:
            return
        total = count = 0.0
        for one in ids:
            tokens = Tokens.of([one])
            total += float(model.output_loss(model.hidden(tokens)[:-1], tokens.ids[0][1:]))
            count += len(one) - 1
        loss, guess = total / count, math.log(len(table))
        if not loss <= guess + WORSE:
            yield Alarm(
                f"the untouched base's loss is {loss:.1f} per token, worse than guessing ({guess:.1f})", "base_model", "take tokenizer and weights of one and the same model, and copy both again"
            )
