"""The verbs that run the cycle or a part of it."""

from __future__ import annotations

import os
import shlex
from typing import Annotated, Any

import typer

from attune.cli.screen import Screen

Fresh = Annotated[bool, typer.Option("--fresh", help="Do every stage again, even where nothing changed.")]
FromRequest = Annotated[str | None, typer.Option("--from-request", metavar="ID", help="A retune request that `attune watch` wrote: its new rows join the old ones.", show_default=False)]


def run_cycle(screen: Screen, path: str, until: str, request_id: str | None = None, fresh: bool = False) -> dict[str, Any]:
    """Run the cycle until a stage and print what came out."""
    from attune import lifecycle
    from attune.cli.names import request_of
    from attune.cli.summary import document, print_summary

    recipe = screen.recipe(path)
    workspace = screen.workspace()
    request = request_of(workspace, request_id) if request_id else None
    cycle = lifecycle.run(recipe, workspace, until=until, request=request, fresh=fresh)
    screen.end_live()
    result = document(workspace, recipe, cycle)
    print_summary(screen, recipe, cycle, result, _same_again(screen, path), workspace_option(screen))
    return result


def _same_again(screen: Screen, path: str) -> str:
    """The recipe and the --set options as they were given, for the next command, which would else be about another run."""
    return " ".join([shlex.quote(path), *(f"--set {shlex.quote(one)}" for one in screen.settings)])


def workspace_option(screen: Screen) -> str:
    """The --workspace option that the next command needs too, as text."""
    return f" --workspace {shlex.quote(str(screen.workspace_folder))}" if screen.workspace_folder is not None and not os.environ.get("ATTUNE_WORKSPACE") else ""
