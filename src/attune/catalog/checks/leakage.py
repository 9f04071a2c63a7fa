"""Test rows that training would have seen: equal or nearly equal texts and shared groups across splits; the test row stays, the other copy goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.similar import questions, similar_across
from attune.core.text import normalise

RANK = {"test": 0, "validation": 1, "train": 2}
"""Of two copies in different splits, the one of the higher rank goes."""


class LeakageKeys(Keys):
    """Keys of the check."""

    threshold: float = key(0.8, "Jaccard similarity of 4-character shingles from which two texts count as copies", ge=0.7, le=1)
    action: Literal["quarantine", "flag", "block"] = key("quarantine", "quarantine: set the training (or validation) copy aside; flag: only tell; block: stop")


class Leakage(Check):
    """Looks across the splits as they are; finds nothing after Attune's own splits, which keep copies together."""

    keys_type = LeakageKeys
    phase = "split"

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """At most one finding per row of the lesser split."""
        splits = context.splits or {}
        column = next((role.name for role in context.task.roles if not role.target), "text")
        texts = questions(context.task, rows)
        forms = [normalise(text) for text in texts]
        rank = [RANK[splits[row["row_id"]]] for row in rows]
        told: set[int] = set()
        for kind, keys in (("text", forms), ("group", [None if row.get("group") is None else str(row["group"]) for row in rows])):
            best: dict[str, int] = {}
            members: dict[str, list[int]] = defaultdict(list)
            for i, name in enumerate(keys):
                if name is not None:
                    members[name].append(i)
                    best[name] = min(best.get(name, i), i, key=lambda one: (rank[one], one))
            for name, inside in members.items():
                for i in inside:
                    if rank[i] > rank[best[name]] and i not in told:
                        told.add(i)
                        what = f"the same {'text' if 'text-in' in context.task.traits else column}" if kind == "text" else f"the same {kind} '{name}'"
                        yield self._finding(rows, i, best[name], column if kind == "text" else kind, what, splits)
        if "text-in" not in context.task.traits:
            return  # rows of a table that differ in one cell are two rows
        for keeper, loser, similarity in similar_across(texts, rank, self.keys.threshold, context.progress):
            if loser not in told:
                yield self._finding(rows, loser, keeper, column, f"nearly the same text (similarity {similarity:.2f})", splits)

    def _finding(self, rows: Sequence[Row], loser: int, keeper: int, column: str, what: str, splits: object) -> Finding:
        assert isinstance(splits, dict)
        mine, other = splits[rows[loser]["row_id"]], splits[rows[keeper]["row_id"]]
        reason = f"{mine} row leaks into {other}: {what} as {rows[keeper]['place']}"
        return Finding(
            rows[loser]["row_id"],
            column,
            reason,
            self.keys.action,
            f"nothing to do: the {other} row stays" if self.keys.action == "quarantine" else "take one of the two out",
            related=rows[keeper]["row_id"],
        )
