"""What every verb has in common: its options, its place in the help, and how its result leaves."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from attune.cli.screen import Screen, json_text

CYCLE = "The cycle, in order"
LIVE = "A release in use"
LOOK = "Looking around"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; notes and progress go to stderr.", rich_help_panel="Everywhere")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.", rich_help_panel="Everywhere")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--workspace", "-w", metavar="FOLDER", help="The folder with everything Attune knows. Default: $ATTUNE_WORKSPACE, else .attune here.", show_default=False, rich_help_panel="Everywhere"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, for example train.epochs=3. May be repeated.", show_default=False, rich_help_panel="Everywhere"),
]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the folder that holds recipe.yaml.", show_default=False)]


def verb(*, order: int, panel: str, examples: tuple[tuple[str, str], ...], settings: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function `f(screen, ...) -> JSON document` a verb.

    Args:
        order: place in the help; the cycle's order.
        panel: heading in the help.
        examples: commands to type, each with what it does.
        settings: True when the verb reads a recipe and takes --set.
    """

    def made(work: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(work, include_extras=True)
        own = [one.replace(annotation=hints[one.name]) for one in list(inspect.signature(work).parameters.values())[1:]]
        common: list[tuple[str, Any, Any]] = [*([("settings", Settings, None)] if settings else []), ("as_json", Json, False), ("quiet", Quiet, False), ("workspace", Folder, None)]
        kind = inspect.Parameter.KEYWORD_ONLY
        extra = [inspect.Parameter(name, kind, default=default, annotation=annotation) for name, annotation, default in common]

        def command(**given: Any) -> int:
            shared = {name: given.pop(name) for name, _, _ in common}
            screen = Screen(shared["as_json"], shared["quiet"], shared["workspace"], tuple(shared.get("settings") or ()))
            Screen.current = screen
            document = work(screen, **given)
            screen.close()
            if screen.as_json and document is not None:
                sys.stdout.write(json_text(document) + "\n")
            return screen.exit_code

        command.__signature__ = inspect.Signature([one.replace(kind=kind) for one in own] + extra)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in [*own, *extra]}
        command.__doc__ = work.__doc__
        command.verb = {"order": order, "panel": panel, "examples": examples}  # type: ignore[attr-defined]
        return command

    return made
