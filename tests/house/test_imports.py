"""Imports go one way, and the command line stays fast because nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import REPOSITORY, SOURCE

LINTER = Path(sys.executable).with_name("lint-imports")
HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "pandas", "matplotlib", "fastapi", "pyarrow", "lightgbm")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run([str(LINTER), "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def copy_of_the_code(folder: Path) -> Path:
    shutil.copytree(SOURCE, folder / "src" / "attune", ignore=shutil.ignore_patterns("__pycache__", "recipes"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder / "pyproject.toml")
    return folder


def test_contracts_are_kept() -> None:
    ended = lint(REPOSITORY)
    assert ended.returncode == 0, ended.stdout
    assert " 0 broken" in ended.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("stages/curate/gate.py", "import attune.stages.grade", "stages never import each other"),
        ("core/rows.py", "import attune.stages.curate", "cli, studio > lifecycle > stages > core"),
        ("stages/grade/gates.py", "import attune.lifecycle", "cli, studio > lifecycle > stages > core"),
        ("catalog/metrics/accuracy.py", "import attune.stages.grade", "the catalog sees only core"),
        ("core/rows.py", "import attune.catalog.metrics.accuracy", "core knows neither plugs nor the suite"),
        ("lifecycle.py", "import attune.testing", "nothing that runs imports the conformance suite"),
    ],
)
def test_a_planted_import_is_seen(tmp_path: Path, file: str, line: str, contract: str) -> None:
    folder = copy_of_the_code(tmp_path)
    path = folder / "src" / "attune" / file
    path.write_text(path.read_text() + f"\n{line}\n")
    ended = lint(folder)
    assert ended.returncode == 1, ended.stdout
    assert f"{contract} BROKEN" in " ".join(ended.stdout.split())


def loaded_by(code: str) -> list[str]:
    """Heavy packages that a program has loaded when it ends."""
    program = f"{code}\nimport sys, json\nsys.stderr.write('\\n' + json.dumps([one for one in {HEAVY!r} if one in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found: list[str] = json.loads(ended.stderr.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import attune",
        "import attune.core.recipe",
        "import attune.lifecycle",
        "from attune.core import catalog; assert len(catalog.entries()) > 30",
        "from attune.cli import main\nimport sys\nsys.argv = ['attune', '--help']\ntry:\n    main()\nexcept SystemExit:\n    pass",
    ],
    ids=["attune", "recipe", "lifecycle", "listing plugs", "attune --help"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert loaded_by(code) == []


def test_a_heavy_import_would_be_seen() -> None:
    assert loaded_by("import pyarrow") == ["pyarrow"]


def test_listing_imports_no_plug() -> None:
    code = "import sys\nfrom attune.core import catalog\ncatalog.entries()\nfound = [m for m in sys.modules if m.startswith('attune.catalog.')]\nassert not found, found"
    assert loaded_by(code) == []
