"""Learn labels from the columns of a table: cross-entropy over classes, rare ones weighted up if you wish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from attune.core.contracts import Batch, Example, Objective, Row
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist

if TYPE_CHECKING:
    import torch


class TableLabelsKeys(Keys):
    """Keys of the objective."""

    class_weight: Literal["none", "balanced"] = key("none", "balanced: every class weighs the same in training; probabilities then speak for a world in which all are equally frequent")


class TableLabels(Objective):
    """Rows of cells with one label each."""

    keys_type = TableLabelsKeys
    requires = frozenset({"table-in", "label-out"})

    def examples(self, specialist: Specialist, rows: Sequence[Row], max_length: int) -> list[Example]:
        """`cells`, float64 [columns], NaN where missing; `target`, a class index; `weight`, of the row in training. `max_length` has no meaning here."""
        labels = {label: i for i, label in enumerate(specialist.model.labels)}
        counts = Counter(row["label"] for row in rows)
        weights = dict.fromkeys(counts, 1.0)
        if self.keys.class_weight == "balanced":
            weights = {label: len(rows) / (len(counts) * n) for label, n in counts.items()}
        table = specialist.model.table([row["features"] for row in rows])
        return [{"row_id": row["row_id"], "size": 1, "cells": cells, "target": labels[row["label"]], "weight": weights[row["label"]]} for row, cells in zip(rows, table, strict=True)]

    def collate(self, specialist: Specialist, examples: Sequence[Example]) -> Batch:
        """table, float64 [batch, columns]; target [batch]."""
        import numpy as np

        width = len(specialist.model.features)
        return {"table": np.array([one["cells"] for one in examples], dtype=np.float64).reshape(len(examples), width), "target": [one["target"] for one in examples]}

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, float]:
        """Sum over rows of the right label's negative log probability, unweighted; the count is the rows."""
        import torch

        right = model.probabilities(batch["table"])[range(len(batch["target"])), batch["target"]]
        return -torch.log(torch.from_numpy(right).clamp_min(1e-15)).sum(), float(len(batch["target"]))
