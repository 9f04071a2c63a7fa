"""`attune grade`: the cycle as far as this stage."""

from __future__ import annotations

from typing import Any

from attune.cli.cycle import Fresh, FromRequest, run_cycle
from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, RecipeArgument, verb


@verb(
    order=50,
    panel=CYCLE,
    settings=True,
    examples=(("attune grade claims", "scorecard, verdict and HTML report"),),
)
def grade(screen: Screen, recipe: RecipeArgument, from_request: FromRequest = None, fresh: Fresh = False) -> Any:
    """Grade the tuned model against its rivals on the sealed test rows."""
    return run_cycle(screen, recipe, "grade", from_request, fresh)
