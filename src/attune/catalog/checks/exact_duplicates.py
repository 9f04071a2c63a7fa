"""The same row twice: one copy stays; written answers are the same only where every sign is (`1X` is no copy of `1x`, indents are code). The same text under different labels: nobody knows which is right, so all of them are set aside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.records import canonical_json
from attune.core.text import normalise, texts_in


class ExactDuplicatesKeys(Keys):
    """Keys of the check."""

    conflicts: Literal["quarantine", "flag"] = key("quarantine", "what happens to equal texts with different labels")
    normalised: bool = key(True, "texts that differ only in case, spaces or punctuation at the edges count as equal")


class ExactDuplicates(Check):
    """Compares whole rows after normalisation of what is asked."""

    keys_type = ExactDuplicatesKeys
    after = ("label_typos",)

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """Rows that others gave as test rows are told but never removed: an official test set stays what it is."""
        task = context.task
        labelled = next((role.name for role in task.roles if role.target and role.type in ("label", "labels")), None)
        written = {role.name for role in task.roles if role.target} if "text-out" in task.traits else set()
        inputs = [role.name for role in task.roles if role.type not in ("label", "labels", "number")]
        column = next((role.name for role in task.roles if not role.target), inputs[0])
        same: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            asked = any(row.get(role.name) for role in task.roles if not role.target)
            text = "\x1f".join(self._form(row.get(name), asked and name in written) for name in inputs)
            same[str(row.get("split") or ""), text].append(row)
        for (split, _), copies in same.items():
            if len(copies) < 2:
                continue
            given = split == "test"
            answers = {canonical_json(row.get(labelled)) for row in copies} if labelled else set()
            if labelled and len(answers) > 1:
                shown = " / ".join(sorted(str(row.get(labelled)) for row in {canonical_json(r.get(labelled)): r for r in copies}.values()))
                for i, row in enumerate(copies):
                    other = copies[0] if i else copies[1]
                    action = "flag" if given else self.keys.conflicts
                    yield Finding(
                        row["row_id"],
                        labelled or column,
                        f"conflicting labels for the same text: {shown}",
                        action,
                        f"decide which label is right (also {other['place']}) and delete the others",
                        related=other["row_id"],
                    )
            else:
                for row in copies[1:]:
                    yield Finding(row["row_id"], column, f"duplicate: of {copies[0]['place']}", "flag" if given else "quarantine", "nothing to do: the first copy stays", related=copies[0]["row_id"])

    def _form(self, value: object, written: bool) -> str:
        """The form in which a value is compared; an answer that is `written` is compared as it is."""
        if written and isinstance(value, str):
            return value
        if isinstance(value, dict):
            return canonical_json(value)
        if isinstance(value, str):
            return normalise(value) if self.keys.normalised else value
        return "\x1e".join(normalise(text) if self.keys.normalised else text for text in texts_in(value)) or canonical_json(value)
