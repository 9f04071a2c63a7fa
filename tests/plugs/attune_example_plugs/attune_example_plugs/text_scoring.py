"""Give a text a number: a rating, a price, a priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel


class TextScoringKeys(Keys):
    """Keys of the task."""

    decimals: int = key(3, "digits behind the point in an answer", ge=0, le=6)


class TextScoring(Task):
    """Text in, number out."""

    keys_type = TextScoringKeys
    traits = frozenset({"text-in", "number-out", "embeds", "torch"})
    roles = (
        Role("text", "text", "what is rated", ("text", "review", "comment")),
        Role("score", "number", "the right number", ("score", "rating", "stars", "price"), target=True),
    )
    defaults = Defaults(
        objective="squared_error",
        method="bias_only",
        main_metric="mean_absolute_error",
        metrics=("mean_absolute_error",),
        rivals=("mean_answer",),
        checks=("encoding", "number_range", "exact_duplicates"),
        detectors=("embedding_shift", "length_shift"),
        exports=("bundle", "zipped"),
    )

    def parse(self, values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
        """The score as a number, also from text such as '4,5'."""
        row = super().parse(values, columns)
        if isinstance(row.get("score"), (str, int)):
            try:
                row["score"] = float(str(row["score"]).replace(",", "."))
            except ValueError as error:
                raise DataError(f"{row['score']!r} is not a number", place=columns["score"], fix="write digits") from error
        return row

    def signature(self, rows: Sequence[Row]) -> Signature:
        """Mean and spread of the scores, to which answers are scaled."""
        scores = sorted(row["score"] for row in rows)
        mean = sum(scores) / len(scores)
        spread = (sum((one - mean) ** 2 for one in scores) / len(scores)) ** 0.5
        return {"mean": mean, "spread": spread or 1.0}

    def text(self, row: Row) -> str:
        """The row's text."""
        return str(row["text"])

    def truth(self, row: Row) -> Any:
        """The row's score."""
        return row["score"]

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained encoder with one output that starts at the mean."""
        import torch

        from attune.core.tunable import TunableModel

        body = base.body()
        head = torch.nn.Linear(body.config.hidden_size, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return TunableModel(body, head, base.pooling())

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """The number, scaled back."""
        found = specialist.model.head(text_features(specialist, [self.text(row) for row in rows]))[:, 0]
        signature = specialist.signature
        return [Prediction(round(signature["mean"] + signature["spread"] * float(one), self.keys.decimals)) for one in found]

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """Pooled vectors."""
        found: np.ndarray = text_features(specialist, texts).numpy()
        return found
