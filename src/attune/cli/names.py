"""From what a person types (a name, an id, a folder) to the recipe, specialist, release or request that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attune.cli.screen import Screen
from attune.core.errors import RecipeError, Refused, nearest
from attune.core.recipe import Recipe, make_recipe
from attune.core.records import Release, RetuneRequest
from attune.core.workspace import Workspace
from attune.core.yaml_reader import read_yaml_file


def specialist_of(screen: Screen, name: str) -> str:
    """The name of a specialist that has releases, from its name or its recipe's folder or file."""
    workspace = screen.workspace(create=False)
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (path.is_dir() and (path / "recipe.yaml").is_file()):
        name = str(read_yaml_file(path / "recipe.yaml" if path.is_dir() else path)[0].get("name", name))
    known = sorted({release.specialist for release in workspace.ledger.find(Release)})
    if name not in known:
        near = nearest(name, known)
        fix = f"did you mean '{near}'?" if near else f"there are: {', '.join(known)}" if known else "make one: `attune run RECIPE`"
        raise RecipeError(f"there is no release of '{name}' in {workspace.root}", place="attune", fix=fix)
    return name


def release_of(screen: Screen, what: str) -> Release:
    """A release from its id, from NAME@VERSION, or the newest one of NAME."""
    workspace = screen.workspace(create=False)
    if what.startswith(f"{Release.kind}-"):
        found = workspace.ledger.get(what)
        assert isinstance(found, Release)
        return found
    name, at, version = what.partition("@")
    releases = workspace.ledger.find(Release, specialist_of(screen, name))
    if not at:
        return releases[-1]
    wanted = [one for one in releases if str(one.version) == version.removeprefix("v")]
    if not wanted:
        raise RecipeError(f"'{name}' has no version '{version}'", place=what, fix="versions: " + ", ".join(str(one.version) for one in releases))
    return wanted[0]


def approved_or_newest(screen: Screen, name: str) -> Release:
    """The approved release of a specialist; with a warning the newest one when none is approved."""
    specialist = specialist_of(screen, name)
    ledger = screen.workspace(create=False).ledger
    approved = ledger.approved(specialist)
    if approved is not None:
        return approved
    newest = ledger.find(Release, specialist)[-1]
    screen.warn(f"no release of '{specialist}' is approved; version {newest.version} ({newest.verdict}) is used. Approve it with `attune promote {specialist}`")
    return newest


def require_approved(screen: Screen, name: str) -> Release:
    """The approved release of a specialist; Refused when there is none."""
    specialist = specialist_of(screen, name)
    ledger = screen.workspace(create=False).ledger
    approved = ledger.approved(specialist)
    if approved is None:
        newest = ledger.find(Release, specialist)[-1]
        raise Refused(
            f"no release of '{specialist}' is approved; version {newest.version} has the verdict {newest.verdict}", place=specialist, fix=f"a person approves one: `attune promote {specialist}`"
        )
    return approved


def request_of(workspace: Workspace, what: str) -> RetuneRequest:
    """A retune request from its id."""
    found = workspace.ledger.get(what)
    if not isinstance(found, RetuneRequest):
        raise RecipeError(f"'{what}' is a {found.kind}, not a retune request", place="--from-request", fix="`attune watch NAME` writes requests and prints their ids (retune-...)")
    return found


def recipe_of(workspace: Workspace, release: Release, settings: tuple[str, ...] = ()) -> Recipe:
    """The resolved recipe that travels with a release, with the --set values laid over it."""
    from attune.core.runs import recipe_folder

    folder = workspace.store.path(release.store_key)
    values, lines = read_yaml_file(folder / "recipe.yaml")
    return make_recipe(values, folder=recipe_folder(workspace, release) or folder, name=f"recipe of {release.id}", lines=lines, settings=settings)


def record_json(record: Any) -> dict[str, Any] | None:
    """A record with its id, as JSON."""
    return {"id": record.id, **record.model_dump(mode="json")} if record is not None else None
