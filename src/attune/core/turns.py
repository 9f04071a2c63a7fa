"""Which training rows a pass learns from, where general ones (`data.replay`) stand beside the domain's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attune.core.randomness import key
from attune.core.recipe_data import ReplayKeys
from attune.core.rows import GENERAL


class Turns:
    """The domain's own rows stand in every pass; of the general ones as many as `ReplayKeys.beside` says, in each pass others until all of them
    had their turn (seen again and again they are learned by heart, and the rest of what they stand for is lost: lab/LOG.md).

    General rows have their turns in an order drawn from their ids, each with all the examples that it became; every pass has as many of these
    examples as so many rows have on average. So all passes are of one size, and a row with many may begin in one pass and end in the next.

    Args:
        examples: training rows, or the examples that became of them; those of general rows carry `GENERAL`.
        replay: the recipe's `data.replay`.
    """

    def __init__(self, examples: Sequence[Mapping[str, Any]], replay: ReplayKeys, seed: int) -> None:
        self.own = [i for i, one in enumerate(examples) if not one.get(GENERAL)]
        drawn: dict[str, list[int]] = {}
        for i, one in enumerate(examples):
            if one.get(GENERAL):
                drawn.setdefault(one["row_id"], []).append(i)
        self.general = [i for name in sorted(drawn, key=lambda name: key(seed, f"general {name}")) for i in drawn[name]]
        rows = min(len(drawn), replay.beside(len({examples[i]["row_id"] for i in self.own})) if self.own else len(drawn))
        self.each = -(-len(self.general) * rows // max(1, len(drawn)))

    def until(self, passes: int) -> list[int]:
        """Indexes of all that so many passes learn from, in order."""
        return sorted(self.own + self.general[: self.each * passes])

    def of(self, epoch: int) -> list[int]:
        """Indexes of a pass, in order; every pass has as many."""
        return sorted(self.own + [self.general[(epoch * self.each + i) % len(self.general)] for i in range(self.each)])
