"""What the label metrics share: per-class counts of hits, predictions and truths as one additive row per test row.

Convention of the macro average: the mean over the labels that occur in the truth or in the predictions of the rows at hand, which is
scikit-learn's default. A bootstrap resample follows the same rule, so a rare class that was not drawn neither helps nor hurts (counting it as
zero would push every interval down, below the value itself). An undefined share (no prediction or no row of a label that occurs) is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attune.core.answers import label_set
from attune.core.contracts import Prediction, Signature

OTHER = "(label unknown to the model)"


def names(signature: Signature) -> list[str]:
    """Label names in column order; the last one collects labels that the signature does not know."""
    return [*signature["labels"], OTHER]


def counts(truth: Sequence[Any], predictions: Sequence[Prediction], signature: Signature) -> np.ndarray:
    """float64 [n, 3 x (labels + 1)]: per row and label whether it was hit, predicted, true."""
    place = {label: number for number, label in enumerate(signature["labels"])}
    other, width = len(place), len(place) + 1
    found = np.zeros((len(truth), 3, width))
    for row, (right, prediction) in enumerate(zip(truth, predictions, strict=True)):
        true, said = label_set(right), label_set(prediction.output)
        for block, labels in enumerate((true & said, said, true)):
            for label in labels:
                found[row, block, place.get(label, other)] += 1
    return found.reshape(len(truth), 3 * width)


def shares(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """precision, recall, F1, rows (support) and occurrence (bool) per label, each [..., labels + 1], from sums [..., 3 x (labels + 1)]."""
    hit, said, true = np.split(np.asarray(totals, dtype=np.float64), 3, axis=-1)
    return _divide(hit, said), _divide(hit, true), _divide(2 * hit, said + true), true, (said + true) > 0


def macro(share: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Mean of a share [..., labels] over the labels that occur; NaN when none does."""
    return _divide(np.where(occurs, share, 0.0).sum(-1), occurs.sum(-1), empty=np.nan)


def micro(totals: np.ndarray, over: tuple[int, ...]) -> np.ndarray:
    """Hits over the mean of the named blocks (1: predicted, 2: true), all labels together; 0 when there are none, as scikit-learn has it."""
    blocks = np.split(np.asarray(totals, dtype=np.float64), 3, axis=-1)
    below = sum(blocks[number].sum(-1) for number in over)
    return _divide(len(over) * blocks[0].sum(-1), below)


def per_class(share: np.ndarray, occurs: np.ndarray, signature: Signature) -> dict[str, float]:
    """A share per label that occurs."""
    return {label: float(value) for label, value, there in zip(names(signature), share, occurs, strict=True) if there}


def _divide(above: Any, below: Any, empty: float = 0.0) -> np.ndarray:
    below = np.asarray(below, dtype=np.float64)
    return np.where(below > 0, np.asarray(above, dtype=np.float64) / np.where(below > 0, below, 1.0), empty)
