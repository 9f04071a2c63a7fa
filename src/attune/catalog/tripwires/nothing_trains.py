"""The method leaves nothing to train, or only what no answer depends on."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import PlugError


class NothingTrains(Tripwire):
    """Counts the parameters that require a gradient."""

    requires = frozenset({"prefers"})
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where there is none."""
        if not any(parameter.requires_grad for parameter in context.specialist.model.parameters()):
            name = context.specialist.method.name if context.specialist.method is not None else "the method"
            yield Alarm(f"method '{name}' marks no weight for training", "method", "choose other targets or layers, or another method")
