"""An endpoint on three releases, in the process for the rules and as a real server for what only a process shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from attune.core.events import Events
from attune.core.recipe import ServeKeys
from attune.core.workspace import Workspace
from attune.stages import register
from attune.stages.serve import make_app
from tests import releases

TOKEN = "t" * 43
URL = "http://127.0.0.1:8321"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Three registered releases that are sure of themselves to different degrees; the first is approved."""
    made = Workspace(tmp_path_factory.mktemp("serve") / "space")
    for scale in (3.0, 5.0, 8.0):
        releases.release(made, scale=scale)
    register.promote(made, all_releases(made)[0], actor="test")
    yield made
    made.close()


def all_releases(workspace: Workspace) -> list[Any]:
    from attune.core.records import Release

    return workspace.ledger.find(Release)


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def warnings(self) -> list[str]:
        return [event["message"] for event in self.events if event["kind"] == "warning"]


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


KEYS = {"max_waiting": 64, "max_body_bytes": 50_000, "max_items": 40, "max_text_chars": 2000}


@pytest.fixture(scope="module")
def client(workspace: Workspace, told: Told) -> Iterator[TestClient]:
    """A client with the token, on an endpoint that looks for other releases only when asked."""
    app = make_app(workspace, releases.NAME, ServeKeys(**KEYS), token=TOKEN, events=Events(listeners=[told]), poll_seconds=3600)
    with TestClient(app, base_url=URL, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False) as found:
        yield found


def approve(workspace: Workspace, number: int) -> Any:
    """Promote release `number` (from 0), also when it is not newer."""
    release = all_releases(workspace)[number]
    register.promote(workspace, release, actor="test")
    return release


def folder_of(workspace: Workspace, release: Any) -> Path:
    return workspace.store.root / release.store_key
