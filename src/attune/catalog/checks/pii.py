"""Personal data: e-mail, phone, card, IBAN, social security number, IP address, passwords in URLs; names only after phrases like 'my name is'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from attune.core import pii
from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.errors import RecipeError, did_you_mean
from attune.core.keys import Keys, key
from attune.core.text import map_texts, texts_in


class PiiKeys(Keys):
    """Keys of the check."""

    action: Literal["mask", "flag", "quarantine"] = key("mask", "mask: replace by the kind in brackets, for example [EMAIL]; flag: only tell; quarantine: set the row aside")
    kinds: list[str] | None = key(None, "what is looked for: EMAIL, PHONE, CARD, IBAN, SSN, IP, URL, NAME; default: all")
    names: bool = key(True, "also look for names; a heuristic that needs a cue such as 'my name is' and misses names without one")


class Pii(Check):
    """Finds structured personal data by pattern and check digit, and names by cue."""

    keys_type = PiiKeys
    phase = "row"
    after = ("encoding", "types")

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """One finding per role value that holds personal data. Labels are not looked at. Where answers differ in personal data only, the row is set aside."""
        kinds = tuple(kind.upper() for kind in (self.keys.kinds if self.keys.kinds is not None else pii.KINDS))
        for kind in kinds:
            if kind not in pii.KINDS:
                raise RecipeError(f"'{kind}' is no kind of personal data that is looked for", place="data.checks: pii.kinds", fix=did_you_mean(kind, pii.KINDS))
        if not self.keys.names:
            kinds = tuple(kind for kind in kinds if kind != "NAME")
        roles = [role.name for role in context.task.roles if role.type in ("text", "messages", "any")]
        answers = [role.name for role in context.task.roles if role.target and role.type == "text"]
        for row in rows:
            left = dict(row)
            for role in roles:
                value = row.get(role)
                counts = Counter(span.kind for text in texts_in(value) for span in pii.find(text, kinds))
                if not counts:
                    continue
                reason = "personal data: " + ", ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in sorted(counts.items()))
                if "NAME" in counts:
                    reason += " (names are a guess from the words before them)"
                if self.keys.action == "mask":
                    masked = map_texts(value, lambda text: pii.mask(text, kinds))
                    left[role] = masked
                    yield Finding(row["row_id"], role, reason, "repair", "nothing to do: replaced by its kind in brackets", masked)
                else:
                    yield Finding(row["row_id"], role, reason, self.keys.action, "remove it from the row, or set `action: mask`")
            for role in answers[1:]:
                if row.get(role) is not None and left[role] == left.get(answers[0]) and row[role] != row[answers[0]]:
                    yield Finding(row["row_id"], role, "equal after personal data was replaced", "quarantine", "let the answers differ in more than personal data, or set `action: flag`")
