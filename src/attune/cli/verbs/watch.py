"""`attune watch`: windows of requests, alarms, and the wish for another cycle."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LIVE, verb


@verb(
    order=90,
    panel=LIVE,
    settings=True,
    examples=(
        ("attune watch claims", "examine the days that are over; an alarm says what moved"),
        ("attune watch claims --now", "the unfinished day too, as far as it goes"),
        ("attune watch claims --set watch.false_alarms_days=90", "at most one false alarm in 90 days"),
    ),
)
def watch(
    screen: Screen,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A specialist's name.", show_default=False)],
    include_open: Annotated[bool, typer.Option("--now", help="Examine the unfinished window too.")] = False,
) -> Any:
    """Drift and feedback of the approved release's requests; an alarm writes a retune request."""
    from attune import lifecycle
    from attune.cli.cycle import workspace_option
    from attune.cli.names import recipe_of, record_json, require_approved
    from attune.cli.windows import window_table
    from attune.core.runs import recipe_folder

    release = require_approved(screen, name)
    workspace = screen.workspace(create=False)
    keys = recipe_of(workspace, release, screen.settings).keys.watch
    windows, request = lifecycle.watch(workspace, release.specialist, keys, include_open=include_open)
    screen.end_live()
    if windows:
        screen.show(window_table(windows))
    if request is not None:
        new_rows = workspace.store.path(request.rows_key)
        screen.show("", request.reason, "", f"new rows  {new_rows}", f"next      attune run {recipe_folder(workspace, release) or 'RECIPE'} --from-request {request.id}{workspace_option(screen)}")
    return {"release": release.id, "windows": [record_json(window) for window in windows], "alarm": any(window.alarm for window in windows), "request": record_json(request)}
