"""Notice that the model answers other labels than it did on the release's test rows: some grew, some shrank.

The statistic looks at all labels together (G-test, which is the Jensen-Shannon divergence weighted by the sample sizes, times 2n) and at
the one label that moved most, and keeps the more telling of the two: many small shifts and one large one are both seen.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from attune.core.contracts import Detector, WindowData
from attune.core.keys import Keys, key

_LEVEL = 0.01
"""The level at which the two views are put on one scale."""


class LabelShiftKeys(Keys):
    """Keys of the detector."""

    look_at: Literal["both", "total", "largest"] = key("both", "all labels together, the one label that moved most, or the more telling of the two")
    smoothing: float = key(0.5, "rows added to every label on both sides, so that rare labels do not decide", ge=0)
    shown: int = key(3, "labels named on each side (grew, shrank)", ge=1)
    examples: int = key(5, "texts shown with an alarm, of the labels that grew", ge=1)


class LabelShift(Detector):
    """Shift of the predicted labels."""

    keys_type = LabelShiftKeys
    requires = frozenset({"label-out"})

    def usable(self, window: WindowData) -> np.ndarray:
        """Every row."""
        return np.arange(len(window))

    def statistic(self, reference: WindowData, window: WindowData) -> float:
        """About a standard normal score without a shift; larger is further."""
        rows = reference.joined(window)
        return float(self.statistics(rows, (np.arange(len(rows)) >= len(reference))[None, :])[0])

    def statistics(self, rows: WindowData, chosen: np.ndarray) -> np.ndarray:
        """Scores of many divisions from one matrix product of counts."""
        names, number = np.unique(np.array(rows.labels, dtype=object).astype(str), return_inverse=True)
        if len(names) < 2:
            return np.zeros(len(chosen))
        one_hot = np.eye(len(names), dtype=np.float32)[number]
        after = (chosen.astype(np.float32) @ one_hot).astype(np.float64)
        before = one_hot.sum(0, dtype=np.float64) - after
        after, before = after + self.keys.smoothing, before + self.keys.smoothing
        views = []
        if self.keys.look_at != "largest":
            views.append(_total_score(before, after))
        if self.keys.look_at != "total":
            views.append(_largest_score(before, after))
        found: np.ndarray = np.max(views, axis=0)
        return found

    def explain(self, reference: WindowData, window: WindowData) -> dict[str, Any]:
        """Shares before and after; the effect is the total variation distance (share of requests that went to other labels, 0 to 1)."""
        names = sorted({*reference.labels, *window.labels})
        before = {name: reference.labels.count(name) / len(reference) for name in names}
        after = {name: window.labels.count(name) / len(window) for name in names}
        change = {name: after[name] - before[name] for name in names}
        grew = [name for name in sorted(names, key=lambda n: -change[n]) if change[name] > 0][: self.keys.shown]
        shrank = [name for name in sorted(names, key=lambda n: change[n]) if change[name] < 0][: self.keys.shown]
        parts = [f"{what}: " + ", ".join(f"'{n}' {before[n]:.0%} -> {after[n]:.0%} ({100 * change[n]:+.0f} points)" for n in some) for what, some in (("grew", grew), ("shrank", shrank)) if some]
        effect = sum(abs(value) for value in change.values()) / 2
        summary = f"The predicted labels moved ({effect:.0%} of {len(window)} rows went to other labels than before). " + "; ".join(parts) + "."
        examples = list(dict.fromkeys(text for name in grew for text, label in zip(window.texts, window.labels, strict=True) if label == name))[: self.keys.examples]
        return {"summary": summary, "effect": effect, "examples": examples, "grew": {n: [before[n], after[n]] for n in grew}, "shrank": {n: [before[n], after[n]] for n in shrank}}


def _deviance(counts: np.ndarray, total: np.ndarray, share: np.ndarray) -> np.ndarray:
    """2 n ln(observed / expected), element by element."""
    from scipy.special import xlogy

    found: np.ndarray = 2 * (xlogy(counts, counts) - xlogy(counts, total * share))
    return found


def _total_score(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The G statistic of the 2 x L table as a normal score (cube root of Wilson and Hilferty 1931); counts [b, L] -> [b]."""
    share = (before + after) / (before + after).sum(1, keepdims=True)
    deviance = sum(_deviance(side, side.sum(1, keepdims=True), share).sum(1) for side in (before, after))
    freedom = before.shape[1] - 1
    score: np.ndarray = (np.cbrt(np.maximum(deviance, 0) / freedom) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom))
    return score


def _largest_score(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The largest signed root of 'this label against all others', less what the best of L labels reaches by chance; [b, L] -> [b]."""
    from scipy.stats import norm

    rows_before, rows_after = before.sum(1, keepdims=True), after.sum(1, keepdims=True)
    share = (before + after) / (rows_before + rows_after)
    deviance = _deviance(before, rows_before, share) + _deviance(after, rows_after, share)
    deviance += _deviance(rows_before - before, rows_before, 1 - share) + _deviance(rows_after - after, rows_after, 1 - share)
    by_chance = norm.isf(_LEVEL / (2 * before.shape[1])) - norm.isf(_LEVEL)
    score: np.ndarray = np.sqrt(np.maximum(deviance, 0)).max(1) - by_chance
    return score
