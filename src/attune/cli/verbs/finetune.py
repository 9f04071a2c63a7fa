"""`attune finetune`: the cycle as far as this stage."""

from __future__ import annotations

from typing import Any

from attune.cli.cycle import Fresh, FromRequest, run_cycle
from attune.cli.screen import Screen
from attune.cli.verb import CYCLE, RecipeArgument, verb


@verb(
    order=40,
    panel=CYCLE,
    settings=True,
    examples=(
        ("attune finetune claims", "train, or go on where a stopped run stands"),
        ("attune finetune claims --set method=lora --set train.epochs=3", "try another method"),
    ),
)
def finetune(screen: Screen, recipe: RecipeArgument, from_request: FromRequest = None, fresh: Fresh = False) -> Any:
    """Tune the base model on the dataset (curates first when the rows changed)."""
    return run_cycle(screen, recipe, "finetune", from_request, fresh)
