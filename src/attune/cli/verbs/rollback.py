"""`attune rollback`: back to the release that was approved before."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LIVE, verb


@verb(order=75, panel=LIVE, examples=(('attune rollback claims --reason "refunds go to the wrong team"', "the release before serves again"),))
def rollback(
    screen: Screen,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A specialist's name.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit log. Required.")] = "",
) -> Any:
    """Go back to the release that was approved before the present one; needs a written reason."""
    from attune.cli.names import record_json, specialist_of
    from attune.core.errors import Refused
    from attune.core.workspace import actor
    from attune.stages import register

    specialist = specialist_of(screen, name)
    workspace = screen.workspace(create=False)
    if not reason.strip():
        raise Refused("a rollback needs a written reason", place=specialist, fix=f'`attune rollback {specialist} --reason "..."`')
    release = register.rollback(workspace, specialist, actor=actor(), reason=reason)
    screen.show(f"approved again: version {release.version} of '{specialist}' ({release.id}), by {actor()}")
    return {"approved": record_json(release), "actor": actor(), "reason": reason}
