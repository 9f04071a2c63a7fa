"""Finding what a word means (record, specialist, run, plug, recipe) and showing it whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli.names import record_json, release_of
from attune.cli.screen import Screen
from attune.cli.summary import contestants, data_lines, short, verdict
from attune.cli.tables import add, facts, table
from attune.core import catalog
from attune.core.cost import words
from attune.core.errors import RecipeError, nearest

if TYPE_CHECKING:
    from attune.core.records import Record
    from attune.core.workspace import Workspace


def show_anything(screen: Screen, what: str) -> Any:
    """Show what `what` names; an error names the nearest thing."""
    path = Path(what)
    if path.suffix in (".yaml", ".yml") or (path.is_dir() and (path / "recipe.yaml").is_file() and ("/" in what or not _known(screen, what))):
        recipe = screen.recipe(what)
        screen.show(recipe.yaml())
        return {"given": recipe.given, "resolved": recipe.resolved(), "notices": recipe.notices}
    plugs = [entry for entry in catalog.entries() if what in (entry.name, f"{entry.kind}/{entry.name}")]
    workspace = _workspace(screen)
    if workspace is not None:
        found = _of_workspace(screen, workspace, what)
        if found is not None:
            return found
    if plugs:
        for entry in plugs:
            _plug(screen, entry)
        return [entry.as_json() for entry in plugs] if len(plugs) > 1 else plugs[0].as_json()
    names = [*_names(workspace), *(entry.name for entry in catalog.entries()), "schema"]
    near = nearest(what, names)
    raise RecipeError(
        f"there is nothing called '{what}'", place="attune show", fix=f"did you mean '{near}'?" if near else "`attune list` shows the plugs, `attune list releases` what the workspace holds"
    )


def _workspace(screen: Screen) -> Workspace | None:
    try:
        return screen.workspace(create=False)
    except RecipeError:
        if screen.workspace_folder is not None:
            raise
        return None


def _known(screen: Screen, what: str) -> bool:
    workspace = _workspace(screen)
    return workspace is not None and what in _names(workspace)


def _names(workspace: Workspace | None) -> list[str]:
    from attune.core.records import RECORD_TYPES

    if workspace is None:
        return []
    records = [record for kind in RECORD_TYPES.values() for record in workspace.ledger.find(kind)]
    runs = [path.name for path in (workspace.root / "runs").glob("[!.]*")]
    return list(dict.fromkeys([*(record.specialist for record in records), *runs, *(record.id for record in records)]))


def _of_workspace(screen: Screen, workspace: Workspace, what: str) -> Any:
    from attune.core.records import RECORD_TYPES

    names = _names(workspace)
    name, version, _ = what.partition("@")
    if version and name in names:
        return _record(screen, workspace, release_of(screen, what))
    if what.partition("-")[0] in RECORD_TYPES and any(name.startswith(what) for name in names):
        return _record(screen, workspace, workspace.ledger.get(what))
    if (workspace.root / "runs" / what / "run.json").is_file() and what in names:
        return _run(screen, workspace, what)
    if what in names:
        return _specialist(screen, workspace, what)
    return None


def _plug(screen: Screen, entry: catalog.Entry) -> None:
    pairs = [("kind", entry.kind), ("from", entry.origin), ("file", entry.file)]
    pairs += [("needs", ", ".join(entry.requires))] if entry.requires else []
    pairs += [("traits", ", ".join(entry.traits))] if entry.traits else []
    screen.show(f"{entry.name}: {entry.purpose}", facts(pairs))
    if entry.keys:
        made = table("key", "type", "default", "meaning", "also written", title="\nkeys")
        for key in entry.keys:
            add(made, key.name, key.type, key.default, key.meaning, ", ".join(key.aliases))
        screen.show(made)
    else:
        screen.show("it has no keys")


def _record(screen: Screen, workspace: Workspace, record: Record) -> dict[str, Any]:
    from attune.core.records import Checkpoint, DatasetVersion, Scorecard

    body = record_json(record) or {}
    short = {name: value for name, value in body.items() if not isinstance(value, (dict, list)) and name != "id"}
    screen.show(f"{record.id}", facts(list(short.items())))
    if isinstance(record, DatasetVersion):
        screen.show(facts(data_lines(record)))
    if isinstance(record, Checkpoint) and record.cost:
        screen.show(facts([("took", words(record.cost, record.steps))]))
    if isinstance(record, Scorecard):
        main = next(iter(record.comparisons)).metric if record.comparisons else next(iter(record.results["tuned"]))
        screen.show("", verdict(record.specialist, record, None), "", contestants(main, record))
    lineage = [(one, _origin(workspace, one)) for one in workspace.ledger.lineage(record.id)]
    made = table("record", "made", "where it comes from", title="\nmade from")
    for one, origin in lineage[1:]:
        add(made, one.id, one.created_at[:19].replace("T", " "), _said(origin))
    if lineage[1:]:
        screen.show(made)
    key = body.get("store_key") or body.get("rows_key")
    folder = str(workspace.store.path(key)) if key else None
    pairs = [*([("comes from", _said(lineage[0][1]))] if lineage[0][1] else []), *([("files", folder)] if folder else [])]
    if pairs:
        screen.show("", facts(pairs))
    return {**body, **lineage[0][1], "lineage": [{**(record_json(one) or {}), **origin} for one, origin in lineage[1:]], "folder": folder}


def _origin(workspace: Workspace, record: Record) -> dict[str, Any]:
    """Where a record comes from, beyond its parents: a checkpoint's run folder, a dataset's source files with how many rows each gave."""
    from attune.core.records import Checkpoint, DatasetVersion

    if isinstance(record, Checkpoint):
        folder = workspace.root / "runs" / record.run
        return {"run_folder": str(folder), "run_folder_there": folder.is_dir()}
    if isinstance(record, DatasetVersion):
        card = workspace.store.root / record.store_key / "curation.json"
        try:
            found: dict[str, dict[str, int]] = json.loads(card.read_text(encoding="utf-8")).get("files", {})
        except (OSError, ValueError):
            return {"source_files": None}
        return {"source_files": {name: counts["used"] + counts["quarantined"] for name, counts in found.items()}}
    return {}


def _said(origin: dict[str, Any]) -> str:
    if "run_folder" in origin:
        return f"run folder {short(Path(origin['run_folder']))}" + ("" if origin["run_folder_there"] else " (gone)")
    if "source_files" in origin:
        files = origin["source_files"]
        return "its files cannot be read: `attune doctor` says more" if files is None else ", ".join(f"{name} ({rows:,} rows)" for name, rows in files.items())
    return ""


def _run(screen: Screen, workspace: Workspace, name: str) -> dict[str, Any]:
    from attune.core.events import read_events

    folder = workspace.root / "runs" / name
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    events = read_events(folder / "events.jsonl") if (folder / "events.jsonl").is_file() else []
    screen.show(facts([*about.items(), ("folder", str(folder))]))
    made = table("when", "what", title="\nevents")
    from datetime import datetime

    for event in events[-30:]:
        add(made, datetime.fromtimestamp(event["at"]).strftime("%Y-%m-%d %H:%M:%S"), f"{event['message']} {event.get('state', '')}".strip())
    screen.show(made)
    return {**about, "folder": str(folder), "events": events}


def _specialist(screen: Screen, workspace: Workspace, name: str) -> dict[str, Any]:
    from attune.core.records import Release

    releases = workspace.ledger.find(Release, name)
    approved = workspace.ledger.approved(name)
    promotions = workspace.ledger.promotions(name)
    made = table("version", "verdict", "release", "made", "", title=name)
    for one in releases:
        add(made, f"v{one.version}", one.verdict, one.id, one.created_at[:19].replace("T", " "), "approved" if approved is not None and one.id == approved.id else "")
    screen.show(made)
    if promotions:
        line = table("when", "what", "release", "by", "why", title="\napprovals")
        for event in promotions:
            add(line, event["at"][:19].replace("T", " "), event["action"] + (" (forced)" if event["forced"] else ""), event["release_id"], event["actor"], event["reason"])
        screen.show(line)
    return {"specialist": name, "approved": approved.id if approved else None, "releases": [record_json(one) for one in releases], "promotions": promotions}
