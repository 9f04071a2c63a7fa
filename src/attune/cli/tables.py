"""Tables that several verbs print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attune.cli.screen import harmless

if TYPE_CHECKING:
    from rich.table import Table

    from attune.core.catalog import Entry


def table(*columns: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """An open table: a heading line, no frame, texts that may hold anything."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title, "bold") if title else None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=False, overflow="fold")
    return made


def plain(value: Any) -> Any:
    """A cell's text as it is, without markup."""
    from rich.text import Text

    return value if isinstance(value, Text) else Text(harmless(str(value)))


def add(made: Table, *cells: Any, style: str = "") -> None:
    """Add a row of texts."""
    made.add_row(*(plain(cell) for cell in cells), style=style)


def facts(pairs: Sequence[tuple[str, Any]], title: str | None = None) -> Table:
    """Names and values, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title, "bold") if title else None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(plain(name), plain(value))
    return made


def plug_table(kind: str, members: Sequence[Entry], with_keys: bool) -> Table:
    """Plugs of a kind; with their keys below each when asked."""
    from rich.text import Text

    made = table("name", "purpose", title=f"\n{kind}")
    made.show_header = False
    made.columns[0].no_wrap = True
    for entry in members:
        origin = "" if entry.origin == "attune" else f"  [from {entry.origin}]"
        add(made, Text(entry.name, "cyan"), entry.purpose + origin)
        if with_keys:
            for key in entry.keys:
                add(made, "", Text.assemble(("  " + key.name, "bold"), f" = {key.default}  ", (key.meaning, "dim")))
    return made
