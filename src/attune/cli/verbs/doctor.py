"""`attune doctor`: whether this machine is fit, and what to do where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attune.cli.screen import Screen
from attune.cli.verb import LOOK, verb


@verb(
    order=230,
    panel=LOOK,
    settings=True,
    examples=(
        ("attune doctor", "packages, processor, disk, base model, and whether the workspace is what was written"),
        ("attune doctor --audit-head HASH", "and whether the audit log still holds a head noted earlier"),
        ("attune doctor --recipe claims", "with the recipe's base model"),
        ("attune doctor --lock requirements.lock", "against a certain lock"),
    ),
)
def doctor(
    screen: Screen,
    recipe: Annotated[str | None, typer.Option("--recipe", metavar="RECIPE", help="Look at this recipe's base model.", show_default=False)] = None,
    lock: Annotated[Path | None, typer.Option("--lock", metavar="FILE", help="Compare installed versions with this lock.", show_default=False)] = None,
    audit_head: Annotated[str | None, typer.Option("--audit-head", metavar="HASH", help="A head of the audit log that you noted earlier: it must still be in the log.", show_default=False)] = None,
) -> Any:
    """Is this machine fit, and the workspace whole? Packages, processor, disk, base model; ledger, audit log, approvals, records, store."""
    from attune.cli.health import examine
    from attune.cli.tables import add, table
    from attune.core.errors import MachineError

    findings = examine(screen, recipe, lock, audit_head)
    made = table("", "what", "found")
    colours = {"ok": "green", "note": "yellow", "fault": "bold red"}
    from rich.text import Text

    for one in findings:
        add(made, Text(one.state, colours[one.state]), one.name, one.found)
        if one.fix:
            add(made, "", "", Text(f"-> {one.fix}", "green"))
    screen.show(made)
    faults = [one for one in findings if one.state == "fault"]
    screen.exit_code = MachineError.exit_code if faults else 0
    screen.show("", f"{len(faults)} fault{'s' if len(faults) != 1 else ''} to mend" if faults else "fit")
    return {"fit": not faults, "findings": [vars(one) for one in findings]}
