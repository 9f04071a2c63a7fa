"""What the label rivals share: answers from probabilities, and the threshold for several labels a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attune.core.answers import label_set
from attune.core.contracts import Prediction, Rival, RivalContext
from attune.core.errors import PlugError


def several(context: RivalContext) -> bool:
    """True when a row may have several labels."""
    return bool(context.signature.get("multi_label"))


def answers(probabilities: np.ndarray, labels: Sequence[str], threshold: float | None) -> list[Prediction]:
    """Predictions from probabilities [n, labels]: the likeliest label, or with a threshold every label that reaches it."""
    found = []
    for row in probabilities:
        scores = {label: float(p) for label, p in zip(labels, row, strict=True)}
        if threshold is None:
            best = int(row.argmax())
            found.append(Prediction(labels[best], scores, float(row[best])))
        else:
            chosen = [label for label, p in scores.items() if p >= threshold]
            found.append(Prediction(chosen, scores, float(np.maximum(row, 1 - row).min())))
    return found


def truth_matrix(truth: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
    """bool [n, labels]: which label holds in which row."""
    sets = [label_set(one) for one in truth]
    return np.array([[label in one for label in labels] for one in sets], dtype=bool).reshape(len(sets), len(labels))


def best_threshold(scores: np.ndarray, truth: np.ndarray, otherwise: float = 0.5) -> float:
    """The score from which a label is given: best micro F1 over scores and truth [n, labels]; `otherwise` without true labels."""
    if not truth.any():
        return otherwise
    order = np.argsort(-scores.ravel(), kind="stable")
    hit, ranked = truth.ravel()[order], scores.ravel()[order]
    f1 = 2 * np.cumsum(hit) / (np.arange(1, len(hit) + 1) + hit.sum())
    ends = np.append(ranked[:-1] != ranked[1:], True)
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    return float(ranked[best] if best + 1 == len(ranked) else (ranked[best] + ranked[best + 1]) / 2)


def cannot(rival: Rival, context: RivalContext) -> PlugError:
    """The error for a task this rival has no answer for."""
    return PlugError(f"rival '{rival.name}' has no answer for task '{context.task.name}'", place="grade.rivals", fix="leave it out; `attune list rivals` shows what each needs")
