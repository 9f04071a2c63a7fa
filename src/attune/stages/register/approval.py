"""Who approved what: promotion and rollback. A release goes live only by a person's act, and every act is an audited event."""

from __future__ import annotations

import math

from attune.core.errors import IntegrityError, Refused
from attune.core.records import Checkpoint, Release, Scorecard
from attune.core.releases import bundle_digest, release_folder
from attune.core.workspace import Workspace


def promote(workspace: Workspace, release: Release, *, actor: str, reason: str = "", force: bool = False) -> None:
    """Make a release the specialist's approved one. Promoting what is approved already changes nothing.

    Raises:
        Refused: the verdict is not SHIP, or a metric of the tuned model is not a number, and `force` was not given with a written reason.
        IntegrityError: the release is not in this ledger, or a file of it, of its scorecard or of its checkpoint, or one of their
            records, is not what was registered. `force` does not help here: nobody can know what would go live.
    """
    _require_actor(actor)
    _require_registered(workspace, release)
    approved = workspace.ledger.approved(release.specialist)
    if approved is not None and approved.id == release.id:
        return
    scorecard = workspace.ledger.get(release.scorecard_id)
    if not isinstance(scorecard, Scorecard) or scorecard.verdict != release.verdict or scorecard.checkpoint_id != release.checkpoint_id or scorecard.dataset_id != release.dataset_id:
        raise IntegrityError(f"release '{release.id}' does not match its scorecard '{release.scorecard_id}'", place="promote", fix="register the checkpoint again")
    _require_whole(workspace, release, scorecard)
    problems = []
    if release.verdict != "SHIP":
        problems.append(f"its verdict is {release.verdict}" + (f" ({'; '.join(scorecard.reasons)})" if scorecard.reasons else ""))
    undefined = sorted(name for name, estimate in scorecard.results.get("tuned", {}).items() if not math.isfinite(estimate.value))
    if undefined:
        problems.append(f"{', '.join(undefined)} of the tuned model is not a number")
    if not scorecard.results.get("tuned"):
        problems.append("its scorecard holds no result of the tuned model")
    if problems and not force:
        raise Refused(f"release {release.version} of '{release.specialist}' is not promoted: {'; '.join(problems)}", place=release.id, fix="tune a better one, or force it with a written reason")
    if problems and not reason.strip():
        raise Refused("a forced promotion needs a written reason", place=release.id, fix="say why: the reason goes into the audit log under your name")
    workspace.ledger.promote(release, action="promote", actor=actor, reason=reason.strip(), forced=bool(problems))


def rollback(workspace: Workspace, specialist: str, *, actor: str, reason: str) -> Release:
    """Go back to the release that was approved before the present one, and return it. Rolling back twice goes back two releases.

    Raises:
        Refused: nothing was approved before, or no reason was written.
        IntegrityError: the earlier release is damaged.
    """
    _require_actor(actor)
    if not reason.strip():
        raise Refused("a rollback needs a written reason", place=specialist, fix="say why: the reason goes into the audit log under your name")
    line = approved_line(workspace, specialist)
    if len(line) < 2:
        raise Refused(f"'{specialist}' has no earlier approved release", place=specialist, fix="promote another release instead")
    earlier = workspace.ledger.get(line[-2])
    assert isinstance(earlier, Release)
    _require_registered(workspace, earlier)
    workspace.ledger.promote(earlier, action="rollback", actor=actor, reason=reason.strip(), forced=False)
    return earlier


def approved_line(workspace: Workspace, specialist: str) -> list[str]:
    """Ids of the releases a rollback can go through, the approved one last. A rollback takes the newest away, so that what was
    given up is never returned to by going back."""
    line: list[str] = []
    for event in workspace.ledger.promotions(specialist):
        if event["action"] == "rollback":
            while line and line[-1] != event["release_id"]:
                line.pop()
        if not line or line[-1] != event["release_id"]:
            line.append(event["release_id"])
    return line


def _require_registered(workspace: Workspace, release: Release) -> None:
    known = workspace.ledger.get(release.id)
    if known != release:
        raise IntegrityError(f"release '{release.id}' is not the one in the ledger", place="promote", fix="name a release that `attune show` lists")
    release_folder(workspace, release)


def _require_whole(workspace: Workspace, release: Release, scorecard: Scorecard) -> None:
    """What the verdict rests on must be there to be looked at again: the graded folder, and the checkpoint whose weights were graded."""
    checkpoint = workspace.ledger.get(release.checkpoint_id)
    if not isinstance(checkpoint, Checkpoint):
        raise IntegrityError(f"'{release.checkpoint_id}' of release '{release.id}' is no checkpoint", place="promote", fix="register the checkpoint again")
    for record in (scorecard, checkpoint):
        try:
            folder = workspace.store.path(record.store_key)
        except IntegrityError as error:
            raise IntegrityError(
                f"release '{release.id}' is not promoted, because its {record.kind} is damaged: {error.what}",
                place=error.place,
                fix="restore it from a backup, or run the recipe again: what is damaged is made anew",
            ) from error
    if bundle_digest(folder) != release.bundle_digest:
        raise IntegrityError(f"release '{release.id}' does not hold the weights of its checkpoint '{checkpoint.id}'", place=str(folder), fix="register the checkpoint again")


def _require_actor(actor: str) -> None:
    if not actor.strip():
        raise Refused("an approval needs a name", place="actor", fix="set ATTUNE_ACTOR")
