"""CONTRIBUTING's 'How to add a metric' is followed to the letter, in a copy of the package, and leads where it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import REPOSITORY, SOURCE

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (?P<what>file: (?P<path>\S+)|run) -->\n```\w*\n(?P<body>.*?)```", re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and the tests' own ground, in a folder of their own."""
    shutil.copytree(SOURCE, tmp_path / "src" / "attune", ignore=shutil.ignore_patterns("__pycache__", "recipes"))
    (tmp_path / "tests").mkdir()
    shutil.copytree(REPOSITORY / "tests" / "network_guard", tmp_path / "tests" / "network_guard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path / "tests" / "conftest.py")
    return tmp_path


def follow(folder: Path, text: str) -> list[subprocess.CompletedProcess[str]]:
    """Write the files and run the commands of a text, in its order."""
    ended = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for block in BLOCK.finditer(text):
        if block["path"]:
            path = folder / block["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            assert not path.exists(), f"{block['path']} is an edit, not a new file"
            path.write_text(block["body"])
        else:
            for line in block["body"].splitlines():
                program, *arguments = line.split()
                command = {"attune": [sys.executable, "-m", "attune"], "python": [sys.executable]}[program] + arguments
                ended.append(subprocess.run(command, cwd=folder, env={**environment, "COLUMNS": "200"}, capture_output=True, text=True, timeout=300))
    return ended


def test_the_recipe_for_a_metric_works(copy: Path) -> None:
    listed, tested = follow(copy, TEXT)
    assert listed.returncode == 0, listed.stderr
    assert "among_likeliest" in listed.stdout
    assert "among the likeliest few" in " ".join(listed.stdout.split())
    assert "how many of the likeliest labels" in " ".join(listed.stdout.split())
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", tested.stdout)[1]) >= 10  # type: ignore[index]


def test_a_mistake_in_it_would_be_noticed(copy: Path) -> None:
    assert "totals[..., 0] / np" in TEXT
    _, tested = follow(copy, TEXT.replace("totals[..., 0] / np", "1 - totals[..., 0] / np"))
    assert tested.returncode == 1
    assert "right_answers_beat_wrong_ones" in tested.stdout


def test_the_table_names_every_kind_and_contract() -> None:
    from attune.core import catalog

    for kind, contract in catalog.KINDS.items():
        assert f"| {kind} | `{contract.__name__}` |" in TEXT
