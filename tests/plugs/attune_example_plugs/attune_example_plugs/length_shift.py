"""Notice that texts have become longer or shorter."""

from __future__ import annotations

from typing import Any

import numpy as np

from attune.core.contracts import Detector, WindowData


class LengthShift(Detector):
    """The largest gap between the two distributions of text lengths (Kolmogorov and Smirnov)."""

    requires = frozenset({"text-in"})

    def usable(self, window: WindowData) -> np.ndarray:
        """Rows with a text."""
        return np.array([i for i, text in enumerate(window.texts) if text], dtype=np.int64)

    def statistic(self, reference: WindowData, window: WindowData) -> float:
        """Between 0 and 1."""
        before, after = (np.sort([len(text) for text in side.texts]) for side in (reference, window))
        places = np.union1d(before, after)
        shares = [np.searchsorted(side, places, side="right") / len(side) for side in (before, after)]
        return float(np.abs(shares[0] - shares[1]).max())

    def explain(self, reference: WindowData, window: WindowData) -> dict[str, Any]:
        """Mean lengths, and the longest texts."""
        before, after = (float(np.mean([len(text) for text in side.texts])) for side in (reference, window))
        longest = sorted(window.texts, key=len, reverse=True)[:3]
        return {"summary": f"Texts have {after:.0f} characters on average; before it was {before:.0f}.", "effect": after - before, "examples": longest}
