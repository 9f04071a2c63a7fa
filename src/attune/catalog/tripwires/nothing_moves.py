"""After a few steps the answers are what they were, to the last bit: the adapter is not applied, or the learning rate moves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError
from attune.core.tripwires import spread, token_rows

ROWS = 4
TOKENS = 96
NOTHING = 1e-12
"""A score of a head that began at zero moves by more than this at any rate that teaches something."""


class NothingMoves(Tripwire):
    """Compares the hidden states, and the output layer's loss or the scores, on a few rows before the first step and now. It is silent while an objective
    that draws its own answers has found nothing to learn from."""

    requires = frozenset({"prefers"})
    phase = "steps"
    error = PlugError

    def remember(self, context: TripwireContext) -> list[Any]:
        """Hidden states of a few rows, and the loss or the score."""
        import torch

        from attune.core.tokens import Tokens

        model, found = context.specialist.model, []
        for one in spread(context.examples, ROWS):
            for ids in token_rows(one)[:1]:
                tokens = Tokens.of([ids[:TOKENS]])
                if model.head is not None:
                    features = model.features(tokens)
                    found.append((features.float().clone(), model.head(features).double()))
                elif len(ids) > 1:
                    hidden = model.hidden(tokens)
                    found.append((hidden.float().clone(), torch.tensor(float(model.output_loss(hidden[:-1], tokens.ids[0][1:])))))
        return found

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where nothing changed at all."""
        if not (context.taught or context.objective.loss_falls):
            return
        before, now = context.remembered.get(self.name), self.remember(context)
        if before and all(bool((a[0] == b[0]).all()) and float((a[1] - b[1]).abs().max()) <= NOTHING for a, b in zip(before, now, strict=True)):
            fix = "check that the method's weights take part in the answers, and that train.learning_rate is not far too small"
            yield Alarm("after the first steps the model answers exactly as before, so what trains changes nothing", "method; train.learning_rate", fix)
