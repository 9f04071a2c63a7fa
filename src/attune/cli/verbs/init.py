"""`attune init`: a folder with a recipe to start from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, verb


@verb(
    order=10,
    panel=CYCLE,
    examples=(
        ("attune init claims --data tickets.csv", "look at your rows and write a recipe for them"),
        ("attune init claims --data tickets.csv --column label=Kind", "say which column is what"),
        ("attune init replies --data chats.jsonl --base ./SmolLM2-135M", "conversations, for a model that writes"),
        ("attune init demo --from support_tickets", "copy a shipped recipe with its rows"),
        ("attune init --list", "the shipped recipes"),
    ),
)
def init(
    screen: Screen,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the specialist; its folder is made here.", show_default=False)] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", metavar="FILE", help="Your rows: a CSV, JSONL or Parquet file, or a folder.", show_default=False)] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="RECIPE", help="A shipped recipe to copy. Default: text_classification.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="What the specialist does, where the rows do not say (`attune list tasks`).", show_default=False)] = None,
    column: Annotated[list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column is what, where the detection is wrong; may be repeated.", show_default=False)] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="MODEL", help="The base model: a folder, a hub id or package:MODULE.", show_default=False)] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the shipped recipes.")] = False,
) -> Any:
    """A folder with a recipe to start from: for your own rows (--data), or a shipped example (--from)."""
    from attune.cli import beginning
    from attune.core.errors import RecipeError

    if listed:
        return beginning.show_starters(screen)
    if name is None:
        raise RecipeError("a name is missing", place="attune init", fix="for example `attune init claims --data tickets.csv`, or `attune init demo --from support_tickets`")
    if data is not None and source is not None:
        raise RecipeError("--data and --from at once", place="attune init", fix="--data writes a recipe for your rows, --from copies a shipped one with its rows")
    if data is None and (task or column or base):
        raise RecipeError("--task, --column and --base are about your rows, and no rows are given", place="attune init", fix=f"attune init {name} --data FILE")
    if data is not None:
        return beginning.from_data(screen, name, data, task, list(column or []), base)
    return beginning.from_starter(screen, name, source or "text_classification")
