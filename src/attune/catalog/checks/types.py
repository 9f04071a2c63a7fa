"""Every role has a value of its type: texts are texts, targets are there, labels are not blank; over-long rows are told with their length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from attune.core.contracts import Check, CheckContext, Finding, Role, Row
from attune.core.keys import Keys, key
from attune.core.text import texts_in

NO_LABEL = frozenset(("", "nan", "null", "n/a", "#n/a", "<na>"))


class TypesKeys(Keys):
    """Keys of the check."""

    max_words: int = key(350, "rows with more words are told: most encoders read 512 tokens and cut the rest", ge=1)


class Types(Check):
    """Sets rows aside whose values cannot be used as what they are for."""

    keys_type = TypesKeys
    phase = "row"

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """The first fault of each row, or a flag for its length."""
        for row in rows:
            for role in context.task.roles:
                fault = _fault(role, row.get(role.name))
                if fault:
                    yield Finding(row["row_id"], role.name, fault[0], "quarantine", fault[1])
                    break
            else:
                yield from self._length(row, context)

    def _length(self, row: Row, context: CheckContext) -> Iterator[Finding]:
        for role in context.task.roles:
            if role.type in ("text", "messages"):
                words = sum(len(text.split()) for text in texts_in(row.get(role.name)))
                if words > self.keys.max_words:
                    yield Finding(row["row_id"], role.name, f"over-long: {words} words", "flag", "shorten it, or raise `train.max_length`: what is beyond it is cut")


def _fault(role: Role, value: Any) -> tuple[str, str] | None:
    """What is wrong with a value and what to do, or None."""
    if value is None:
        return (f"no {role.name}", "fill in the cell, or delete the row") if role.required else None
    if role.type == "text" and not isinstance(value, str):
        return f"the {role.name} is a {_kind(value)}, not text", "write it as text, in quotes"
    if role.type == "text" and role.required and not value.strip():
        return f"the {role.name} is blank", "fill in the cell, or delete the row"
    if role.type in ("label", "labels"):
        labels = value if isinstance(value, list) else [value]
        if any(not isinstance(one, str) for one in labels):
            return f"the {role.name} is a {_kind(value)}, not a name", "write the label as text"
        if any(one.strip().casefold() in NO_LABEL for one in labels):
            return f"the {role.name} is blank", "give the row its label, or delete it"
    if role.type == "number" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)):
        return f"the {role.name} is not a number: {value!r}", "write a finite number"
    if role.type == "features":
        if not isinstance(value, dict):
            return f"the {role.name} are a {_kind(value)}, not a group of cells", "give the row its columns"
        if all(one is None for one in value.values()):
            return f"the {role.name} are all missing", "fill in a cell, or delete the row"
    if role.type == "messages" and value != []:  # an empty list is a plain text's, which answers nothing
        if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
            return f"the {role.name} are a {_kind(value)}, not a list of messages", 'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        if not any(text.strip() for text in texts_in(value)):
            return f"the {role.name} are blank", "fill in the contents, or delete the row"
    return None


def _kind(value: Any) -> str:
    kinds = {bool: "truth value", int: "number", float: "number", dict: "group of values", list: "list", str: "text", bytes: "block of bytes"}
    return next((word for kind, word in kinds.items() if isinstance(value, kind)), type(value).__name__)
