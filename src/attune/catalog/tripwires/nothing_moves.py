"""After a few steps the answers are what they were, to the last bit: the adapter is not applied, or the learning rate moves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError
from attune.core.tripwires import spread

ROWS = 4
TOKENS = 96


class NothingMoves(Tripwire):
    """Compares the hidden states and the output layer's loss on a few rows before the first step and now."""

    requires = frozenset({"text-out"})
    phase = "steps"
    error = PlugError

    def remember(self, context: TripwireContext) -> list[Any]:
        """Losses and hidden states of a few rows."""
        from attune.core.tokens import Tokens

        model, found = context.specialist.model, []
        for one in spread(context.examples, ROWS):
            ids = one.get("ids")
            if isinstance(ids, list) and len(ids) > 1 and isinstance(ids[0], int):
                tokens = Tokens.of([ids[:TOKENS]])
                hidden = model.hidden(tokens)
                found.append((hidden.float().clone(), float(model.output_loss(hidden[:-1], tokens.ids[0][1:]))))
        return found

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where nothing changed at all."""
        before, now = context.remembered.get(self.name), self.remember(context)
        if before and all(bool((a[0] == b[0]).all()) and a[1] == b[1] for a, b in zip(before, now, strict=True)):
            fix = "check that the method's weights take part in the answers, and that train.learning_rate is not far too small"
            yield Alarm("after the first steps the model answers exactly as before, so what trains changes nothing", "method; train.learning_rate", fix)
