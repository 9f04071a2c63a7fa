"""The base never learned its end token, and the method does not train the output layer: the model could never learn to stop."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.conversation import stop_ids
from attune.core.errors import PlugError

NEAR = 1e-6


class EndCannotBeLearned(Tripwire):
    """Looks at the end token's row of a frozen output layer: all zero, or the same as other rows, as never trained tokens are."""

    requires = frozenset({"text-out"})
    error = PlugError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm where no end token has a row of its own."""
        from attune.core.flat import network_of

        model = context.specialist.model
        output = network_of(model.body).get_output_embeddings()
        weight = getattr(output, "weight", None)
        if weight is None or weight.ndim != 2 or not weight.dtype.is_floating_point or any(p.requires_grad for p in output.parameters()):
            return
        rows = {one: weight[one].float() for one in stop_ids(context.specialist) if one < len(weight)}
        scale = float(weight.float().abs().mean())
        blank = [one for one, row in rows.items() if float(row.abs().max()) <= NEAR * scale or int(((weight.float() - row).abs().amax(1) <= NEAR * scale).sum()) > 1]
        if rows and len(blank) == len(rows):
            names = " and ".join(repr(context.specialist.tokenizer.convert_ids_to_tokens(one)) for one in blank)
            yield Alarm(
                f"the base never learned its end token {names}, and the method does not train the output layer",
                "method",
                "use `method: full`, or a base that was tuned for conversations",
            )
