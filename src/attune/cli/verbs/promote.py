"""`attune promote`: a person approves a release."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LIVE, verb


@verb(
    order=70,
    panel=LIVE,
    examples=(
        ("attune promote claims", "approve the newest release; refused without the verdict SHIP"),
        ("attune promote claims@2", "a certain version"),
        ('attune promote claims --force --reason "pilot with ten users"', "against the verdict, with a written reason"),
    ),
)
def promote(
    screen: Screen,
    release: Annotated[str, typer.Argument(metavar="NAME|ID", help="A specialist's name (its newest release), NAME@VERSION, or a release id.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Approve against the verdict; needs --reason.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")] = "",
) -> Any:
    """Approve a release: from now on it is what serves. Refused without the verdict SHIP unless forced with a reason."""
    from attune.cli.names import record_json, release_of
    from attune.core.errors import Refused
    from attune.core.workspace import actor
    from attune.stages import register

    if force and not reason.strip():
        raise Refused("a forced promotion needs a written reason", place="--force", fix=f'attune promote {release} --force --reason "..."')
    found = release_of(screen, release)
    workspace = screen.workspace(create=False)
    before = workspace.ledger.approved(found.specialist)
    try:
        register.promote(workspace, found, actor=actor(), reason=reason, force=force)
    except Refused as error:
        error.fix = f'{error.fix}: `attune promote {release} --force --reason "..."`'
        raise
    if before is not None and before.id == found.id:
        screen.show(f"version {found.version} of '{found.specialist}' is approved already")
    else:
        screen.show(f"approved: version {found.version} of '{found.specialist}' ({found.id}), by {actor()}" + (f"; before: version {before.version}" if before else ""))
        screen.note(f"a running endpoint takes it over by itself; else: `attune serve {found.specialist}`")
    return {"approved": record_json(found), "before": before.id if before else None, "actor": actor(), "reason": reason}
