"""Stages run again only when something changed, or when what they made is not whole any more."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from attune.core.errors import MachineError
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


@pytest.mark.parametrize("name", ["taken", "taken/inner", "taken/inner/deeper"])
def test_a_file_in_the_way_is_named_with_the_way_out(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with pytest.raises(MachineError) as caught:
        Workspace(tmp_path / name)
    assert f"'{tmp_path / 'taken'}' is a file" in caught.value.what
    assert f"--workspace {tmp_path / name}" == caught.value.place
    assert "--workspace FOLDER" in str(caught.value.fix)


NOBODY = """
import os, sys
from attune.core import ledger, workspace
from attune.core.errors import MachineError
ledger.Ledger("sqlite://").close()  # imports what the user may not be able to read
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    found = workspace.Workspace(sys.argv[1])
    found.ledger.audit("nobody", "did", "it")
    print("written")
except MachineError as error:
    print(error)
"""


@pytest.fixture
def open_to_all():
    """A folder that another user can reach, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="attune-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody(folder: Path) -> str:
    """What opening a workspace says to a user whom permissions bind: for root they do not."""
    return subprocess.run([sys.executable, "-c", NOBODY, str(folder)], capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_workspace_that_may_not_be_written_names_the_permission(open_to_all):
    Workspace(open_to_all / "space").close()
    for path in (open_to_all / "space", *(open_to_all / "space").iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    said = as_nobody(open_to_all / "space")
    assert f"no permission to write '{open_to_all / 'space'}' (dr-xr-xr-x, owner {os.geteuid()})" in said
    assert "give that permission back, or name a folder that you may write to: --workspace FOLDER" in said
    (open_to_all / "space").chmod(0o777)
    said = as_nobody(open_to_all / "space")
    assert f"{open_to_all / 'space' / 'ledger.db'}: the ledger did not take part: attempt to write a readonly database" in said
    assert "give back the permission to write that file, or name another folder: --workspace FOLDER" in said
    for path in (open_to_all / "space").iterdir():
        path.chmod(0o666)
    assert as_nobody(open_to_all / "space") == "written\n"


def test_a_parent_that_may_not_be_written_is_named(open_to_all):
    (open_to_all / "closed").mkdir(mode=0o555)
    said = as_nobody(open_to_all / "closed" / "a" / "b")
    assert f"cannot be made: user {65534 if os.geteuid() == 0 else os.geteuid()} has no permission to write '{open_to_all / 'closed'}'" in said
    assert "--workspace FOLDER" in said
    (open_to_all / "closed").chmod(0o777)
    assert as_nobody(open_to_all / "closed" / "a" / "b") == "written\n"


def test_runs_have_a_folder_and_a_file_of_events(workspace):
    workspace.events("one").note("hello")
    assert (workspace.run_folder("one") / "events.jsonl").read_text().count("hello") == 1
