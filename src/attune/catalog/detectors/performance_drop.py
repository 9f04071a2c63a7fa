"""Notice that the model does worse: lower accuracy where feedback says what was right, otherwise lower confidence.

The statistic is Welch's t of the two means (Welch 1947), one-sided: only a drop counts. Accuracy is the better witness; confidence is there
at once and costs nothing, but a model can be sure and wrong.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from attune.core.contracts import Detector, WindowData
from attune.core.keys import Keys, key

_TIE = 1e-4
"""Weight of the confidence beside right and wrong: few rows give few different accuracies, and ties would make the test duller than its level."""


class PerformanceDropKeys(Keys):
    """Keys of the detector."""

    measure: Literal["auto", "accuracy", "confidence"] = key("auto", "auto: accuracy where enough rows have feedback; confidence: right when people report only the wrong answers")
    min_labelled: int = key(30, "rows with feedback from which accuracy is used", ge=10)
    examples: int = key(5, "texts shown with an alarm", ge=1)


class PerformanceDrop(Detector):
    """Drop of labelled accuracy or of confidence."""

    keys_type = PerformanceDropKeys

    def usable(self, window: WindowData) -> np.ndarray:
        """Rows with feedback where there are enough of them, else rows with a confidence."""
        labelled = np.flatnonzero(np.isfinite(window.correct))
        if self.keys.measure != "confidence" and len(labelled) >= self.keys.min_labelled:
            return labelled
        if self.keys.measure == "accuracy":
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.isfinite(window.confidence))

    def statistic(self, reference: WindowData, window: WindowData) -> float:
        """Standard errors by which the window's mean lies below the reference's."""
        rows = reference.joined(window)
        return float(self.statistics(rows, (np.arange(len(rows)) >= len(reference))[None, :])[0])

    def statistics(self, rows: WindowData, chosen: np.ndarray) -> np.ndarray:
        """Welch's t of many divisions from two matrix products."""
        values = self._values(rows, int(chosen[0].sum()))
        values = values - values.mean()
        picks = chosen.astype(np.float64)
        m = picks.sum(1)
        n = len(values) - m
        sums, squares = picks @ values, picks @ values**2
        after, before = sums / m, (values.sum() - sums) / n
        spread = np.maximum(squares / m - after**2, 0) / m + np.maximum(((values**2).sum() - squares) / n - before**2, 0) / n
        found: np.ndarray = (before - after) / np.sqrt(spread + 1e-12)
        return found

    def _values(self, rows: WindowData, window_rows: int) -> np.ndarray:
        """What is averaged; a rule on all rows and the window's size alone, so that every division of the rows is measured alike."""
        if not self._by_accuracy(rows, window_rows):
            return rows.confidence
        return rows.correct + _TIE * rows.confidence if np.isfinite(rows.confidence).all() else rows.correct

    def _by_accuracy(self, rows: WindowData, window_rows: int) -> bool:
        return self.keys.measure != "confidence" and window_rows >= self.keys.min_labelled and bool(np.isfinite(rows.correct).all())

    def explain(self, reference: WindowData, window: WindowData) -> dict[str, Any]:
        """Both means and the change (effect, negative for a drop), with the rows that speak for it."""
        by_accuracy = self._by_accuracy(reference.joined(window), len(window))
        before, after = (float(np.mean(side.correct if by_accuracy else side.confidence)) for side in (reference, window))
        what = f"Accuracy on the {len(window)} rows with feedback" if by_accuracy else f"Mean confidence of {len(window)} rows (too little feedback for accuracy)"
        if not by_accuracy and self.keys.measure == "confidence":
            what = f"Mean confidence of {len(window)} rows"
        verb = "fell" if after < before else "did not fall"
        summary = f"{what} {verb}: {before:.1%} on the release's test rows, {after:.1%} now ({100 * (after - before):+.1f} points)."
        order = np.lexsort((window.confidence, window.correct)) if by_accuracy else np.argsort(window.confidence, kind="stable")
        shown = [window.texts[i] for i in order if not by_accuracy or window.correct[i] < 1]
        return {"summary": summary, "effect": after - before, "examples": list(dict.fromkeys(shown))[: self.keys.examples], "measure": "accuracy" if by_accuracy else "confidence"}
