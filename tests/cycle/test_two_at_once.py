"""Two processes run the same recipe in one workspace: the rows are curated once as far as anybody can see, the model is tuned once, the test rows are opened once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attune.core.events import read_events
from attune.core.records import Checkpoint, DatasetVersion, Release, Scorecard
from attune.core.workspace import Workspace
from tests.cli.conftest import topic_rows, write_csv
from tests.conftest import REPOSITORY

PATIENCE = 120
"""Seconds after which a process that says nothing is ended and the test fails."""
RECIPE = """
name: claims
task: text_classification
method: head
data: {path: rows.csv}
train: {epochs: 1}
grade: {rivals: [majority], probes: [], resamples: 200}
gates: [{metric: accuracy, better_than: majority}]
"""
PROGRAM = """
import json, sys
from attune import lifecycle
from attune.core.recipe import read_recipe
from attune.core.workspace import Workspace
from attune.stages import curate, finetune, grade, register
folder, until, waits, fresh = sys.argv[1:]
def say(**facts):
    print(json.dumps(facts), flush=True)
def hear(event):
    if event["kind"] in ("stage", "warning"):
        say(what=event["message"], state=event.get("state"))
        if waits == "yes" and (event["message"], event.get("state")) == ("finetune", "started"):
            sys.stdin.readline()
workspace, recipe = Workspace(folder + "/space", listeners=(hear,)), read_recipe(folder)
say(what="ready")
sys.stdin.readline()
cycle = lifecycle.run(recipe, workspace, until=until, fresh=fresh == "yes")
say(what="done", ids=[one.id for one in (cycle.dataset, cycle.checkpoint, cycle.scorecard, cycle.release) if one is not None])
"""


class Runner:
    """A process that runs the cycle and says what it does, line by line."""

    def __init__(self, folder: Path, until: str = "register", *, waits: bool = False, fresh: bool = False) -> None:
        arguments = [str(folder), until, "yes" if waits else "no", "yes" if fresh else "no"]
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.clock = threading.Timer(PATIENCE, self.process.kill)
        self.clock.start()
        self.heard: list[dict[str, Any]] = []

    def until(self, what: str, state: str | None = None) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard.append(json.loads(line))
            if what in self.heard[-1]["what"] and self.heard[-1].get("state") == state:
                return self.heard[-1]
        raise AssertionError(f"it ended without saying {what!r}: {self.heard}")

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def states(self, stage: str) -> list[str]:
        return [one["state"] for one in self.heard if one["what"] == stage]

    def end(self) -> None:
        self.clock.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Any]:
    """runner(...) starts a process on the same recipe in the same workspace."""
    texts, labels = topic_rows()
    write_csv(tmp_path / "rows.csv", {"text": texts, "label": labels})
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    started: list[Runner] = []

    def start(*arguments: Any, **more: Any) -> Runner:
        started.append(Runner(tmp_path, *arguments, **more))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_the_second_waits_and_uses_what_the_first_made(runner, tmp_path):
    first = runner(waits=True)
    first.until("ready")
    first.go_on()
    first.until("finetune", "started")
    second = runner()
    second.until("ready")
    second.go_on()
    told = second.until("waits for")["what"]
    assert f"waits for process {first.process.pid} (since 20" in told
    assert "UTC), which makes the same run 'claims-" in told
    first.go_on()
    assert first.until("done")["ids"] == second.until("done")["ids"]
    for stage in ("finetune", "grade", "register"):
        assert (first.states(stage), second.states(stage)) == (["started", "finished"], ["unchanged"])
    space = Workspace(tmp_path / "space")
    assert [len(space.ledger.find(kind)) for kind in (DatasetVersion, Checkpoint, Scorecard, Release)] == [1, 1, 1, 1]
    assert [event["action"] for event in space.ledger.audit_log()].count("test_rows.open") == 1
    [folder] = (space.root / "runs").glob("claims-*")
    assert len([event for event in read_events(folder / "events.jsonl") if (event["message"], event.get("state")) == ("finetune", "started")]) == 1
    space.close()


def test_fresh_does_not_take_the_folder_of_a_live_run_away(runner, tmp_path):
    first = runner(waits=True, until="finetune")
    first.until("ready")
    first.go_on()
    first.until("finetune", "started")
    [folder] = (tmp_path / "space" / "runs").glob("claims-*")
    second = runner(until="finetune", fresh=True)
    second.until("ready")
    second.go_on()
    second.until("waits for")
    assert [path.name for path in folder.parent.glob("claims-*")] == [folder.name], "the live run keeps its folder"
    first.go_on()
    first.until("done")
    second.until("done")
    assert second.states("finetune") == ["started", "finished"]
    assert len(list(folder.parent.glob("claims-*"))) == 2, "the ended one was set aside"


def test_a_killed_run_lets_the_next_one_in(runner):
    first = runner(waits=True, until="finetune")
    first.until("ready")
    first.go_on()
    first.until("finetune", "started")
    second = runner(until="finetune")
    second.until("ready")
    second.go_on()
    second.until("waits for")
    first.end()
    second.until("done")
    assert second.states("finetune") == ["started", "finished"]


def test_two_that_curate_at_the_same_moment_make_one_dataset(runner, tmp_path):
    both = [runner("curate") for _ in range(2)]
    for one in both:
        one.until("ready")
    for one in both:
        one.go_on()
    ids = [one.until("done")["ids"] for one in both]
    assert ids[0] == ids[1]
    space = Workspace(tmp_path / "space")
    [dataset] = space.ledger.find(DatasetVersion)
    assert space.store.has(dataset.store_key)
    assert [path.name for path in (space.store.root / "datasets").iterdir()] == [dataset.store_key.split("/")[1]], "nothing half-made is left"
    space.ledger.verify_audit()
    space.close()
