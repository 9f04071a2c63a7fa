"""Set rows aside whose number cannot be: below or above what the recipe says is possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attune.core.contracts import Check, CheckContext, Finding, Row
from attune.core.keys import Keys, key


class NumberRangeKeys(Keys):
    """Keys of the check."""

    lowest: float = key(-1000000.0, "smaller numbers are set aside")
    highest: float = key(1000000.0, "larger numbers are set aside")


class NumberRange(Check):
    """Looks at every role that is a number."""

    keys_type = NumberRangeKeys
    phase = "row"

    def examine(self, rows: Sequence[Row], context: CheckContext) -> Iterator[Finding]:
        """One finding per impossible number."""
        columns = [role.name for role in context.task.roles if role.type == "number"]
        for row in rows:
            for column in columns:
                value = row.get(column)
                if value is not None and not self.keys.lowest <= value <= self.keys.highest:
                    yield Finding(row["row_id"], column, f"{value} is not between {self.keys.lowest} and {self.keys.highest}", "quarantine", "mend the number, or widen the range in data.checks")
