"""`attune check`: everything that can be known before training, in seconds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, verb


@verb(
    order=20,
    panel=CYCLE,
    settings=True,
    examples=(
        ("attune check claims", "what is wrong, what was detected, what would run; no training"),
        ("attune check claims --set method=lora", "with another setting"),
        ("attune check claims --quick", "without the forecast of time, memory and disk"),
        ("attune check claims --show-mask 3", "three rows as tokens: what is learned, what is not, which token ends an answer"),
        ("attune check --schema > recipe.schema.json", "the JSON Schema of recipes, for editors"),
    ),
)
def check(
    screen: Screen,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the folder that holds recipe.yaml.")] = ".",
    quick: Annotated[bool, typer.Option("--quick", help="No forecast: leave out the probe of a few training steps.")] = False,
    show_mask: Annotated[int | None, typer.Option("--show-mask", metavar="ROWS", help="Show so many rows as tokens, with what is learned in colour.", min=1)] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes instead.")] = False,
) -> Any:
    """What is wrong, what was detected in the rows, and what a run would do: seconds, no training."""
    from attune.cli.checking import look
    from attune.cli.verbs.show import print_schema

    if schema:
        return print_schema(screen)
    return look(screen, recipe, quick, show_mask)
