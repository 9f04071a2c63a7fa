"""Texts that are nearly the same: they stay, but all of them in one split, so that the test does not ask what training has shown.

An instruction that many rows share is not compared (`core.similar`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.similar import Groups, questions, similar_pairs


class NearDuplicatesKeys(Keys):
    """Keys of the check."""

    threshold: float = key(0.8, "Jaccard similarity of 4-character shingles from which two texts are nearly the same", ge=0.7, le=1)
    action: Literal["group", "quarantine", "ignore"] = key("group", "group: keep the rows, all in one split; quarantine: keep the first only; ignore: only the leakage check looks")


class NearDuplicates(Check):
    """MinHash candidates, verified exactly."""

    keys_type = NearDuplicatesKeys
    requires = frozenset({"text-in"})
    after = ("exact_duplicates",)

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """For each row but the first of a group: a row that it is like, with the similarity in the reason.

        Rows whose split others gave are compared among themselves; what crosses into such a split is the leakage check's matter.
        """
        if self.keys.action == "ignore":
            return
        parts: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            parts[str(row.get("split") or "")].append(row)
        for split, inside in parts.items():
            yield from self._part(inside, context, split == "test")

    def _part(self, rows: Sequence[Row], context: CheckContext, official: bool) -> Iterator[Finding]:
        pairs = similar_pairs(questions(context.task, rows), self.keys.threshold, context.progress)
        column = next((role.name for role in context.task.roles if not role.target), "text")
        if self.keys.action == "group" or official:
            for i, j, similarity in pairs:
                reason = f"nearly the same as: {rows[i]['place']} (similarity {similarity:.2f})"
                yield Finding(rows[j]["row_id"], column, reason, "flag", "nothing to do: both stand in one split", related=rows[i]["row_id"])
            return
        groups = Groups(len(rows), ((i, j) for i, j, _ in pairs))
        for j in range(len(rows)):
            i = groups.of(j)
            if i != j:
                reason = f"nearly the same as: {rows[i]['place']} (directly or through rows between)"
                yield Finding(rows[j]["row_id"], column, reason, "quarantine", "nothing to do: the first copy stays", related=rows[i]["row_id"])
