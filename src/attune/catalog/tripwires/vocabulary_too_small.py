"""The tokenizer makes ids that the model has no vector for: it is another model's, or tokens were added and the model was not resized."""

from __future__ import annotations

from collections.abc import Iterator

from attune.core.contracts import Alarm, Tripwire, TripwireContext
from attune.core.errors import IntegrityError
from attune.core.tripwires import places, rows_by_id, token_rows


class VocabularyTooSmall(Tripwire):
    """Compares the largest id of the rows with the rows of the embedding."""

    looks_at = ("prompt",)
    requires = frozenset({"prefers"})
    error = IntegrityError

    def examine(self, context: TripwireContext) -> Iterator[Alarm]:
        """One alarm that names a token."""
        from attune.core.flat import network_of

        size = network_of(context.specialist.model.body).get_input_embeddings().weight.shape[0]
        known = rows_by_id(context)
        beyond = {str(one["row_id"]): max(ids) for one in context.examples for ids in token_rows(one) if max(ids) >= size}
        if beyond:
            worst = next(iter(beyond.values()))
            token = context.specialist.tokenizer.convert_ids_to_tokens(worst)
            rows = [known[name] for name in beyond if name in known]
            yield Alarm(
                f"{len(beyond):,} rows hold token ids that the model does not have, such as {worst} ({token!r}) of {size}",
                places(rows),
                "take the tokenizer that belongs to the base, or resize the model's embedding",
            )
