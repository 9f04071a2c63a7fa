"""The base's weights hold values that are no numbers, or a whole matrix of zeros: the file is damaged, or was never filled."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import IntegrityError


class WeightsNoNumbers(Tripwire):
    """Looks at the base's weight matrices; what a method adds may well begin at zero."""

    requires = frozenset({"prefers"})
    error = IntegrityError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm with the first such weight."""
        import torch

        bad, empty = [], []
        for name, parameter in context.specialist.model.body.named_parameters():
            if not parameter.dtype.is_floating_point:
                continue
            if not bool(torch.isfinite(parameter.sum())):
                bad.append(name)
            elif parameter.ndim > 1 and "base_model" not in name.split(".")[0] and not parameter.requires_grad and not bool(parameter.any()):
                empty.append(name)
        if bad:
            yield Alarm(f"{len(bad)} weights of the base hold values that are no numbers, the first is '{bad[0]}'", "base_model", "copy the base again from where it came from")
        if empty:
            yield Alarm(f"{len(empty)} weight matrices of the base are all zero, the first is '{empty[0]}'", "base_model", "copy the base again from where it came from")
