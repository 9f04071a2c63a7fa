"""`attune curate`: the cycle as far as this stage."""

from __future__ import annotations

from typing import Any

from attune.cli.cycle import Fresh, FromRequest, run_cycle
from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, RecipeArgument, verb


@verb(
    order=30,
    panel=CYCLE,
    settings=True,
    examples=(
        ("attune curate claims", "read, check, split and store the rows"),
        ("attune curate claims --set data.splits.by=group --set data.splits.group=customer", "keep each customer in one split"),
    ),
)
def curate(screen: Screen, recipe: RecipeArgument, from_request: FromRequest = None, fresh: Fresh = False) -> Any:
    """Rows in, a checked and split dataset version out."""
    return run_cycle(screen, recipe, "curate", from_request, fresh)
