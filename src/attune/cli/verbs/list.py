"""`attune list`: every plug, and what the workspace holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LOOK, verb

WORKSPACE = ("runs", "releases", "datasets", "specialists")


@verb(
    order=210,
    panel=LOOK,
    examples=(
        ("attune list", "every plug with one line of purpose"),
        ("attune list methods", "one kind, with keys and defaults"),
        ("attune list releases", "what the workspace holds: runs, releases, datasets, specialists"),
    ),
)
def list_(
    screen: Screen,
    what: Annotated[str | None, typer.Argument(metavar="[WHAT]", help="A kind of plug (tasks, methods, metrics ...), or runs, releases, datasets, specialists.", show_default=False)] = None,
) -> Any:
    """Every plug with its purpose, keys and defaults; or the runs, releases and datasets of the workspace."""
    if what in WORKSPACE:
        from attune.cli.holdings import holdings

        return holdings(screen, what)
    return _plugs(screen, what)


def _plugs(screen: Screen, kind: str | None) -> Any:
    from attune.cli.tables import plug_table
    from attune.core import catalog
    from attune.core.errors import RecipeError, did_you_mean

    if kind is not None and kind not in catalog.KINDS:
        kind = next((one for one in catalog.KINDS if one == f"{kind}s"), kind)
    if kind is not None and kind not in catalog.KINDS:
        raise RecipeError(f"there is nothing called '{kind}' to list", place="attune list", fix=did_you_mean(kind, [*catalog.KINDS, *WORKSPACE]))
    found = catalog.entries(kind)
    for one in [kind] if kind else sorted(catalog.KINDS):
        members = [entry for entry in found if entry.kind == one]
        if members:
            screen.show(plug_table(one, members, with_keys=kind is not None))
    if kind is None:
        screen.note("keys and defaults: `attune list KIND` · one plug: `attune show NAME`")
    return [entry.as_json() for entry in found]
