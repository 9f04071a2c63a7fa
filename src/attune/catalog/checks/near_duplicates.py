"""Texts that are nearly the same: they stay, but all of them in one split, so that the test does not ask what training has shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.similar import groups, similar_pairs


class NearDuplicatesKeys(Keys):
    """Keys of the check."""

    threshold: float = key(0.8, "Jaccard similarity of 4-character shingles from which two texts are nearly the same", ge=0.7, le=1)
    action: Literal["group", "quarantine", "ignore"] = key("group", "group: keep the rows, all in one split; quarantine: keep the first only; ignore: only the leakage check looks")


class NearDuplicates(Check):
    """MinHash candidates, verified exactly."""

    keys_type = NearDuplicatesKeys
    after = ("exact_duplicates",)

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """For each row but the first of a group: the row it is most like. The similarity is in the reason."""
        if self.keys.action == "ignore":
            return
        threshold = self.keys.threshold
        pairs = similar_pairs([context.task.text(row) for row in rows], threshold, context.progress)
        column = next((role.name for role in context.task.roles if not role.target), "text")
        if self.keys.action == "quarantine":
            first = groups(len(rows), [(i, j) for i, j, _ in pairs])
            for j, i in enumerate(first):
                if i != j and rows[j].get("split") != "test":
                    yield Finding(
                        rows[j]["row_id"],
                        column,
                        f"nearly the same as: {rows[i]['place']} (directly or through rows between)",
                        "quarantine",
                        "nothing to do: the first copy stays",
                        related=rows[i]["row_id"],
                    )
            return
        joined = list(range(len(rows)))

        def root(i: int) -> int:
            while joined[i] != i:
                joined[i] = joined[joined[i]]
                i = joined[i]
            return i

        for i, j, similarity in sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1])):
            left, right = root(i), root(j)
            if left != right:
                joined[max(left, right)] = min(left, right)
                yield Finding(
                    rows[j]["row_id"], column, f"nearly the same as: {rows[i]['place']} (similarity {similarity:.2f})", "flag", "nothing to do: both stand in one split", related=rows[i]["row_id"]
                )
