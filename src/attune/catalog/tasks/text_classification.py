"""Put a text into one of several classes, or several of them at once: intents, topics, sentiment, clause types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attune.core.contracts import Defaults, Prediction, Role, Row, Signature, Task
from attune.core.errors import DataError
from attune.core.keys import Keys, key
from attune.core.specialist import Specialist, text_features

if TYPE_CHECKING:
    import numpy as np

    from attune.core.models import Base
    from attune.core.tunable import TunableModel


class TextClassificationKeys(Keys):
    """Keys of the task."""

    multi_label: bool = key(False, "a row may have several labels, or none")
    label_separator: str = key("|", "between the labels of a multi-label cell that is text")
    pooling: Literal["auto", "mean", "cls", "last"] = key("auto", "how token vectors become one; auto asks the base model")


class TextClassification(Task):
    """Text in, label (or labels) out."""

    keys_type = TextClassificationKeys
    traits = frozenset({"text-in", "label-out", "embeds", "torch"})
    roles = (
        Role("text", "text", "what is classified", ("text", "message", "body", "content", "sentence", "utterance", "query", "question", "description", "abstract", "review", "comment")),
        Role("label", "label", "the right class", ("label", "category", "class", "intent", "target", "topic", "sentiment", "type", "answer", "tag"), target=True),
    )
    defaults = Defaults(
        objective="supervised",
        method="full",
        main_metric="accuracy",
        metrics=("accuracy", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro"),
        rivals=("majority", "linear", "untouched_base", "retrieval"),
        checks=("encoding", "types", "pii", "exact_duplicates", "near_duplicates", "label_typos", "leakage"),
        detectors=("embedding_shift", "label_shift", "performance_drop"),
        probes=("robustness",),
        exports=("bundle", "transformers"),
    )

    def parse(self, values: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
        """Role values of a record; a multi-label cell may be a list or text with separators, and labels may be numbers or truth values."""
        row = super().parse(values, columns)
        if self.keys.multi_label and "label" in columns:
            row["label"] = self._labels(row.get("label"), columns["label"])
        elif isinstance(row.get("label"), (int, float)):
            row["label"] = _name(row["label"])
        return row

    def _labels(self, cell: Any, column: str) -> list[str]:
        if cell is None:
            return []
        parts = cell if isinstance(cell, list) else str(cell).split(self.keys.label_separator)
        if not all(isinstance(part, (str, int)) for part in parts):
            raise DataError(f"labels {cell!r} are not texts", place=column, fix=f"give a list of texts or text separated by '{self.keys.label_separator}'")
        return sorted({_name(part).strip() for part in parts if _name(part).strip()})

    def signature(self, rows: Sequence[Row]) -> Signature:
        """Sorted label names and whether several may hold."""
        multi = bool(self.keys.multi_label)
        counts = Counter(label for row in rows for label in (row["label"] if multi else [row["label"]]))
        if len(counts) < (1 if multi else 2):
            raise DataError(f"{len(counts)} different label(s) in the training rows", place="label", fix="give rows of at least two classes, or check `data.columns.label`")
        return {"labels": sorted(counts), "multi_label": multi, "thresholds": [0.5] * len(counts) if multi else None}

    def text(self, row: Row) -> str:
        """The row's text."""
        return str(row["text"])

    def truth(self, row: Row) -> Any:
        """The row's label or list of labels."""
        return row["label"]

    def build(self, base: Base, signature: Signature) -> TunableModel:
        """The pretrained encoder with a fresh linear layer that starts at zero (every class equally likely)."""
        import torch

        from attune.core.tunable import TunableModel

        body = base.body()
        head = torch.nn.Linear(body.config.hidden_size, len(signature["labels"]))
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return TunableModel(body, head, base.pooling() if self.keys.pooling == "auto" else self.keys.pooling)

    def probabilities(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, labels]: softmax over classes, or a sigmoid per label."""
        logits = specialist.model.head(text_features(specialist, texts))
        found: np.ndarray = (logits.sigmoid() if self.keys.multi_label else logits.softmax(-1)).numpy()
        return found

    def predict(self, specialist: Specialist, rows: Sequence[Row]) -> list[Prediction]:
        """Label(s), probabilities and confidence (of the chosen class; the weakest decision where several labels may hold)."""
        labels = specialist.signature["labels"]
        answers = []
        for row in self.probabilities(specialist, [self.text(r) for r in rows]):
            scores = {label: float(p) for label, p in zip(labels, row, strict=True)}
            if self.keys.multi_label:
                chosen: Any = [label for label, p, least in zip(labels, row, specialist.signature["thresholds"], strict=True) if p >= least]
                confidence = float(min(max(p, 1 - p) for p in row))
            else:
                chosen = labels[int(row.argmax())]
                confidence = float(row.max())
            answers.append(Prediction(chosen, scores, confidence))
        return answers

    def embed(self, specialist: Specialist, texts: Sequence[str]) -> np.ndarray:
        """The pooled vectors that the head sees."""
        found: np.ndarray = text_features(specialist, texts).numpy()
        return found

    def settle(self, specialist: Specialist, validation: Sequence[Row]) -> Signature:
        """For several labels: the threshold per label that gives the best F1 on the validation rows, 0.5 where a label is too rare to tell."""
        if not self.keys.multi_label or not validation:
            return specialist.signature
        import numpy as np

        labels = specialist.signature["labels"]
        scores = np.array([[p.scores[label] for label in labels] for p in specialist.predict(validation)])
        truth = np.array([[label in row["label"] for label in labels] for row in validation])
        thresholds = []
        for column in range(len(labels)):
            if truth[:, column].sum() < 5:
                thresholds.append(0.5)
                continue
            grid = np.linspace(0.1, 0.9, 33)
            said = scores[:, column][None, :] >= grid[:, None]
            hit = (said & truth[:, column][None, :]).sum(1)
            f1 = 2 * hit / np.maximum(said.sum(1) + truth[:, column].sum(), 1)
            best = np.flatnonzero(f1 >= f1.max() - 1e-12)
            thresholds.append(float(grid[best[np.abs(grid[best] - 0.5).argmin()]]))
        return {**specialist.signature, "thresholds": thresholds}


def _name(label: str | float) -> str:
    """A label as text; truth values as JSON writes them."""
    return str(label).lower() if isinstance(label, bool) else str(label)
