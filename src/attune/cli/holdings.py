"""What a workspace holds: specialists, runs, releases, datasets."""

from __future__ import annotations

import json
from typing import Any

from attune.cli.names import record_json
from attune.cli.screen import Screen
from attune.cli.tables import add, table


def holdings(screen: Screen, what: str) -> list[dict[str, Any]]:
    """Print and return one kind of thing, oldest first."""
    found: list[dict[str, Any]] = {"runs": _runs, "releases": _releases, "datasets": _datasets, "specialists": _specialists}[what](screen)
    if not found:
        screen.note(f"no {what} yet: `attune run RECIPE` makes them")
    return found


def _when(text: str) -> str:
    return text[:19].replace("T", " ")


def _runs(screen: Screen) -> list[dict[str, Any]]:
    folder = screen.workspace(create=False).root / "runs"
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/run.json"), key=lambda p: p.stat().st_mtime)]
    made = table("run", "specialist", "dataset", "recipe")
    for one in found:
        add(made, one["run"], one["specialist"], one["dataset"], one["recipe_folder"])
    if found:
        screen.show(made)
    return found


def _releases(screen: Screen) -> list[dict[str, Any]]:
    from attune.core.records import Release

    ledger = screen.workspace(create=False).ledger
    releases = ledger.find(Release)
    approved = {name: release.id if (release := ledger.approved(name)) else None for name in {one.specialist for one in releases}}
    made = table("specialist", "version", "verdict", "release", "made", "")
    for one in releases:
        add(made, one.specialist, f"v{one.version}", one.verdict, one.id, _when(one.created_at), "approved" if approved[one.specialist] == one.id else "")
    if releases:
        screen.show(made)
    return [{**(record_json(one) or {}), "approved": approved[one.specialist] == one.id} for one in releases]


def _datasets(screen: Screen) -> list[dict[str, Any]]:
    from attune.core.records import DatasetVersion

    found = screen.workspace(create=False).ledger.find(DatasetVersion)
    made = table("dataset", "specialist", "read", "train", "validation", "test", "made", right=("read", "train", "validation", "test"))
    for one in found:
        add(made, one.id, one.specialist, *(f"{one.counts[name]:,}" for name in ("read", "train", "validation", "test")), _when(one.created_at))
    if found:
        screen.show(made)
    return [record_json(one) or {} for one in found]


def _specialists(screen: Screen) -> list[dict[str, Any]]:
    from attune.core.records import Release

    ledger = screen.workspace(create=False).ledger
    names = sorted({one.specialist for one in ledger.find(Release)})
    made = table("specialist", "releases", "approved", "newest verdict", right=("releases",))
    found = []
    for name in names:
        releases, approved = ledger.find(Release, name), ledger.approved(name)
        found.append({"specialist": name, "releases": len(releases), "approved": approved.id if approved else None, "newest": releases[-1].id, "verdict": releases[-1].verdict})
        add(made, name, len(releases), f"v{approved.version} ({approved.id})" if approved else "–", releases[-1].verdict)
    if found:
        screen.show(made)
    return found
