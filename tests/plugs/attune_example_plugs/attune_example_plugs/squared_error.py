"""Learn numbers from rows: the mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch

    from attune.core.tunable import TunableModel


class SquaredError(Objective):
    """Squared difference to the row's number, in units of the training rows' spread."""

    requires = frozenset({"number-out", "torch"})

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """Token ids and the scaled target."""
        signature = specialist.signature
        texts = [specialist.task.text(row) for row in rows]
        targets = [(row["score"] - signature["mean"]) / signature["spread"] for row in rows]
        return [{"row_id": row["row_id"], "size": len(ids), "ids": ids, "target": target} for row, ids, target in zip(rows, specialist.token_ids(texts), targets, strict=True)]

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """tokens, target [batch]."""
        import torch

        from attune.core.tokens import Tokens

        return {"tokens": Tokens.of([e["ids"] for e in examples]), "target": torch.tensor([e["target"] for e in examples])}

    def loss(self, model: TunableModel, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum over rows; the count is the rows."""
        assert model.head is not None
        found = model.head(model.features(batch["tokens"]))[:, 0]
        return ((found - batch["target"]) ** 2).sum(), float(len(batch["target"]))
