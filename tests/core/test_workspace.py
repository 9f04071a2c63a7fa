"""Stages run again only when something changed, or when what they made is not whole any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.core.events import Events
from attune.core.ledger import Ledger
from attune.core.records import DatasetVersion
from attune.core.workspace import Workspace, actor
from tests.core.test_ledger import dataset


@pytest.fixture
def workspace(tmp_path: Path):
    made = Workspace(tmp_path / "space")
    yield made
    made.close()


class Work:
    """A stage that counts how often it ran; every run may store other bytes."""

    def __init__(self, workspace: Workspace, content: str = "rows") -> None:
        self.workspace = workspace
        self.content = content
        self.ran = 0

    def __call__(self) -> DatasetVersion:
        self.ran += 1
        key = self.workspace.store.put("dataset", lambda folder: (folder / "a").write_text(self.content))
        return dataset().model_copy(update={"store_key": key})


def told(workspace, work, inputs, **more):
    heard = []
    record = workspace.stage("curate", inputs, DatasetVersion, work, events=Events(listeners=[heard.append]), **more)
    return record, [event["state"] for event in heard]


def test_equal_inputs_run_once(workspace):
    work = Work(workspace)
    first, states = told(workspace, work, {"a": 1, "b": [1, 2]})
    assert states == ["started", "finished"]
    again, states = told(workspace, work, {"b": [1, 2], "a": 1})
    assert (again, states, work.ran) == (first, ["unchanged"], 1)
    assert workspace.known("curate", {"a": 1, "b": [1, 2]}, DatasetVersion) == first
    assert workspace.known("curate", {"a": 2, "b": [1, 2]}, DatasetVersion) is None
    assert workspace.known("finetune", {"a": 1, "b": [1, 2]}, DatasetVersion) is None
    told(workspace, work, {"a": 2, "b": [1, 2]})
    assert work.ran == 2
    told(workspace, work, {"a": 1, "b": [1, 2]}, fresh=True)
    assert work.ran == 3


def test_damaged_content_is_made_again_and_then_kept(workspace):
    work = Work(workspace)
    first, _ = told(workspace, work, {"a": 1})
    (workspace.store.root / first.store_key / "a").write_text("r0ws")
    work.content = "rows, written another way"  # what is made anew need not have the same bytes
    second, _ = told(workspace, work, {"a": 1})
    assert work.ran == 2
    assert workspace.store.has(second.store_key)
    third, states = told(workspace, work, {"a": 1})
    assert (third, states, work.ran) == (second, ["unchanged"], 2)


def test_a_stage_that_fails_leaves_no_result(workspace):
    def broken() -> DatasetVersion:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        told(workspace, broken, {"a": 1})
    assert workspace.known("curate", {"a": 1}, DatasetVersion) is None
    assert workspace.ledger.audit_log() == []


def test_where_a_workspace_is_and_who_acts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = Workspace()
    assert space.root == tmp_path / ".attune"
    space.close()
    monkeypatch.setenv("ATTUNE_WORKSPACE", str(tmp_path / "other"))
    monkeypatch.setenv("ATTUNE_LEDGER_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    space = Workspace()
    space.ledger.add(dataset())
    assert space.root == tmp_path / "other"
    assert isinstance(space.ledger, Ledger)
    assert (tmp_path / "elsewhere.db").is_file()
    space.close()
    monkeypatch.setenv("ATTUNE_ACTOR", "ann")
    assert actor() == "ann"


def test_runs_have_a_folder_and_a_file_of_events(workspace):
    workspace.events("one").note("hello")
    assert (workspace.run_folder("one") / "events.jsonl").read_text().count("hello") == 1
