"""`attune show`: one thing, whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LOOK, verb


@verb(
    order=220,
    panel=LOOK,
    examples=(
        ("attune show claims", "a specialist: its releases and what was approved when"),
        ("attune show claims@2", "a release with its lineage: checkpoint, run folder, data, source files"),
        ("attune show release-0123456789abcdef", "a record with its lineage back to the rows"),
        ("attune show lora", "a plug: what it is for, its keys and defaults"),
        ("attune show ./claims", "a recipe with every default filled in"),
        ("attune show schema", "the JSON Schema of recipes"),
    ),
)
def show(
    screen: Screen,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A specialist, a release as NAME@VERSION, record id, run, plug (lora or methods/lora), recipe or `schema`.", show_default=False)],
) -> Any:
    """A specialist, a release or other record with its lineage, a run, a plug, a recipe with all defaults, or the recipes' schema."""
    from attune.cli.showing import show_anything

    return print_schema(screen) if what == "schema" else show_anything(screen, what)


def print_schema(screen: Screen) -> Any:
    """The JSON Schema of recipes: the document itself is what is printed."""
    import json

    from attune.core.recipe_schema import json_schema

    schema = json_schema()
    screen.show(json.dumps(schema, indent=1, ensure_ascii=False))
    return schema
