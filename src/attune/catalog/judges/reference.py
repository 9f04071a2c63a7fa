"""The answer that shares more words with the right answer wins (word F1). No model, no people: a check of the others, and free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attune.core.answers import normalised
from attune.core.contracts import Duel, Judge


class Reference(Judge):
    """Duels without a right answer are not decided."""

    def prefer(self, duels: Sequence[Duel]) -> list[float | None]:
        """By word F1 with the right answer."""
        found: list[float | None] = []
        for duel in duels:
            if duel.right is None:
                found.append(None)
                continue
            first, second = _shared(duel.right, duel.first), _shared(duel.right, duel.second)
            found.append(0.5 if first == second else float(first > second))
        return found


def _shared(right: str, said: str) -> float:
    wanted, there = normalised(right).split(), normalised(said).split()
    return 2 * (Counter(wanted) & Counter(there)).total() / max(len(wanted) + len(there), 1)
