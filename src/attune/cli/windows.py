"""Examined windows as a table: what each detector said, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attune.cli.tables import add, table

if TYPE_CHECKING:
    from rich.table import Table

    from attune.core.records import Window


def window_table(windows: Sequence[Window]) -> Table:
    """One line per window and detector, alarms in red."""
    from rich.text import Text

    made = table("window", "rows", "with feedback", "detector", "what it says", right=("rows", "with feedback"))
    for window in windows:
        for number, result in enumerate(window.results):
            first = number == 0
            alarm = bool(result["alarm"])
            add(
                made,
                window.begin[:10] if first else "",
                window.rows if first else "",
                window.labelled if first else "",
                result["name"],
                Text.assemble(("ALARM  ", "bold red") if alarm else "", result["summary"]),
            )
    return made
