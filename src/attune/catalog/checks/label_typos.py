"""Labels that are misspellings of a frequent label: other case, spaces, or a letter or two; they are repaired, and unknown rare ones are told."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key
from attune.core.text import edit_distance

NEGATIONS = ("un", "in", "im", "il", "ir", "non", "dis", "anti", "no", "not", "a", "re", "pre", "de")


class LabelTyposKeys(Keys):
    """Keys of the check."""

    rare: float = key(0.1, "a label may be a misspelling of one that is at least 1/rare times as frequent", gt=0, lt=1)
    repair: bool = key(True, "write the frequent label instead; false: only tell")


class LabelTypos(Check):
    """Compares the names of labels, not the texts."""

    keys_type = LabelTyposKeys

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """One finding per row whose label is not taken as it stands."""
        role = next((r.name for r in context.task.roles if r.target and r.type in ("label", "labels")), None)
        if role is None:
            return
        counts = Counter(label for row in rows for label in _labels(row.get(role)))
        meant = self.meant(counts)
        seldom = {label for label, n in counts.items() if n <= 2 and label not in meant and n < 0.05 * counts.total() / len(counts)}
        for row in rows:
            value = row.get(role)
            wrong = [label for label in _labels(value) if label in meant]
            for label in _labels(value):
                if label in seldom:
                    yield Finding(row["row_id"], role, f"rare label: '{label}' ({counts[label]} row(s))", "flag", "correct it if it is a mistake; else collect more rows of it")
            if wrong:
                replacement = sorted({meant.get(label, label) for label in _labels(value)}) if isinstance(value, list) else meant[wrong[0]]
                reason = "misspelt label: " + ", ".join(f"'{label}' for '{meant[label]}'" for label in wrong)
                yield Finding(
                    row["row_id"],
                    role,
                    reason,
                    "repair" if self.keys.repair else "flag",
                    "nothing to do" if self.keys.repair else "write the frequent label",
                    replacement if self.keys.repair else None,
                )

    def meant(self, counts: Counter[str]) -> dict[str, str]:
        """Misspelt label -> the label that was meant."""
        found: dict[str, str] = {}
        forms: dict[str, list[str]] = defaultdict(list)
        for label in counts:
            forms[_fold(label)].append(label)
        best = {form: max(same, key=lambda one: (counts[one], one == one.strip(), one)) for form, same in forms.items()}
        for form, same in forms.items():
            found.update({label: best[form] for label in same if label != best[form]})
        weight = {form: sum(counts[one] for one in same) for form, same in forms.items()}
        frequent = sorted(weight, key=lambda form: (-weight[form], form))
        for form in weight:
            near = [other for other in frequent if other != form and weight[form] <= self.keys.rare * weight[other] and _misspelt(form, other)]
            if len(near) == 1:
                found.update(dict.fromkeys(forms[form], best[near[0]]))
        return {label: found.get(right, right) for label, right in found.items()}


def _labels(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]


def _fold(label: str) -> str:
    return re.sub(r"[\s_\-./]+", "_", label.strip().casefold()).strip("_") or label


def _misspelt(form: str, other: str) -> bool:
    """True for a slip of the keys: one letter, or two in a long name. Digits name different things, and so do words with a negation in front."""
    limit = 0 if min(len(form), len(other)) < 4 else 1 if min(len(form), len(other)) < 8 else 2
    if not limit or re.sub(r"\D", "", form) != re.sub(r"\D", "", other):
        return False
    short, long = sorted((form, other), key=len)
    if any(long == part + short or long == f"{part}_{short}" for part in NEGATIONS):
        return False
    return edit_distance(form, other, limit) <= limit
