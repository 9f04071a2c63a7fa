"""`attune run`: the whole cycle."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.cycle import Fresh, FromRequest, run_cycle
from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, RecipeArgument, verb


@verb(
    order=25,
    panel=CYCLE,
    settings=True,
    examples=(
        ("attune run claims", "the whole cycle; ends in one verdict"),
        ("attune run claims", "again: only what changed is done; a stopped run goes on"),
        ("attune run claims --until finetune --set train.epochs=3", "a part of it, with another setting"),
        ("attune run claims --from-request retune-0123456789abcdef", "the next cycle, with the rows that feedback brought"),
    ),
)
def run(
    screen: Screen,
    recipe: RecipeArgument,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="Stop after curate, finetune, grade or register.")] = "register",
    from_request: FromRequest = None,
    fresh: Fresh = False,
) -> Any:
    """The whole cycle: curate, finetune, grade, register; ends in one verdict."""
    from attune.core.errors import RecipeError, did_you_mean
    from attune.lifecycle import STAGES

    if until not in STAGES:
        raise RecipeError(f"there is no stage '{until}'", place="--until", fix=did_you_mean(until, STAGES))
    return run_cycle(screen, recipe, until, from_request, fresh)
