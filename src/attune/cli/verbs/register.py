"""`attune register`: the cycle as far as this stage."""

from __future__ import annotations

from typing import Any

from attune.cli.cycle import Fresh, FromRequest, run_cycle
from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, RecipeArgument, verb


@verb(
    order=60,
    panel=CYCLE,
    settings=True,
    examples=(("attune register claims", "the next version; nobody serves it until it is promoted"),),
)
def register(screen: Screen, recipe: RecipeArgument, from_request: FromRequest = None, fresh: Fresh = False) -> Any:
    """Register the graded model as a release with model card and lineage."""
    return run_cycle(screen, recipe, "register", from_request, fresh)
