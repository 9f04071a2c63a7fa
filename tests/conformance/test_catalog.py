"""Every plug in the catalog, with every task it fits, through the suite that plug writers use."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.core import catalog
from attune.testing import Case, conformance_cases
from attune.testing.bench import bench

CASES = [case for entry in catalog.entries() for case in conformance_cases(entry.kind, entry.name)]
KINDS_WITH_PLUGS = set(catalog.KINDS) - {"probes"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conforms(case: Case, tmp_path: Path) -> None:
    case.run(tmp_path)


def test_every_plug_on_disk_is_examined() -> None:
    room = Path(catalog.ROOM)
    on_disk = {(folder.name, file.stem) for folder in room.iterdir() if folder.is_dir() for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert {(case.kind, case.name) for case in CASES} == on_disk
    assert {kind for kind, _ in on_disk} >= KINDS_WITH_PLUGS


@pytest.mark.parametrize(
    ("task", "objective", "method"),
    [
        ("text_classification", "supervised", "full"),
        ("text_classification", "supervised", "head"),
        ("text_classification", "supervised", "lora"),
        ("text_generation", "sft", "lora"),
        ("text_generation", "sft", "full"),
        ("embedding", "contrastive", "full"),
    ],
)
def test_the_three_specialists_are_among_them(task: str, objective: str, method: str) -> None:
    """What a method's cases tune on a task's bench is the task's default objective."""
    assert bench(task).objective().name == objective
    titles = {case.check.__name__ for case in CASES if (case.kind, case.name, case.task) == ("methods", method, task)}
    assert {"check_what_it_writes_answers_the_same", "check_only_what_it_marks_moves", "check_something_trains_and_the_same_each_time"} <= titles
    assert [case for case in CASES if (case.kind, case.name, case.task) == ("objectives", objective, task)]
