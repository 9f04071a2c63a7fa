"""Adding a task, an objective, a method, a rival, a metric, a check, an export, a detector is one new file and no edit of Attune:
a package that is installed apart does it, is listed, conforms, and runs a whole cycle."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import attune
from attune.core.randomness import generator
from attune.testing import tiny_bert

from .outside import EXAMPLE, install, seeing, write_package

ADDED = {
    "tasks": "text_scoring",
    "objectives": "squared_error",
    "methods": "bias_only",
    "rivals": "mean_answer",
    "metrics": "mean_absolute_error",
    "checks": "number_range",
    "exports": "zipped",
    "detectors": "length_shift",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(EXAMPLE, tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("copy"))


def run(command: list[str], target: Path, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, env=seeing(target, **more), capture_output=True, text=True, timeout=500)


def test_each_is_one_file_of_the_package() -> None:
    files = {file.stem for file in (EXAMPLE / "attune_example_plugs").glob("*.py")} - {"__init__"}
    assert files == set(ADDED.values())


def test_attune_knows_none_of_their_names() -> None:
    for file in Path(attune.__file__).parent.rglob("*.py"):
        named = {node.value for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not named & set(ADDED.values()), file


def test_they_are_listed_with_where_they_come_from(installed: Path, tmp_path: Path) -> None:
    ended = run(["-m", "attune", "list", "--json"], installed, tmp_path)
    assert ended.returncode == 0, ended.stderr
    listed = json.loads(ended.stdout)
    plugs = listed if isinstance(listed, list) else listed["result"]
    found = {entry["kind"]: entry for entry in plugs if entry["origin"] == "attune-example-plugs"}
    assert {kind: entry["name"] for kind, entry in found.items()} == ADDED
    assert found["tasks"]["keys"][0]["name"] == "decimals"
    assert found["tasks"]["purpose"].startswith("Give a text a number")


def test_listing_imports_none_of_them(installed: Path, tmp_path: Path) -> None:
    code = "import sys\nfrom attune.core import catalog\nnames = [e.name for e in catalog.entries()]\nassert 'text_scoring' in names\nassert not [m for m in sys.modules if m.startswith(('attune_example', 'attune.catalog.'))]"
    ended = run(["-c", code], installed, tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_they_conform_by_the_suite_that_ours_pass(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "test_conformance.py").write_text(
        "import pytest\n"
        "from attune.testing import conformance_cases\n"
        f"ADDED = {ADDED!r}\n"
        "CASES = [case for kind, name in ADDED.items() for case in conformance_cases(kind, name)]\n"
        "@pytest.mark.parametrize('case', CASES, ids=str)\n"
        "def test_conforms(case, tmp_path):\n"
        "    case.run(tmp_path)\n"
    )
    ended = run(["-m", "pytest", "-v", "-p", "no:cacheprovider", "test_conformance.py"], installed, tmp_path)
    assert ended.returncode == 0, ended.stdout[-6000:]
    for kind, name in ADDED.items():
        assert ended.stdout.count(f"[{kind}-{name}-") >= 6, f"{kind}/{name} was hardly examined"
    assert " skipped" not in ended.stdout


def test_a_recipe_goes_round_with_them(installed: Path, tmp_path: Path) -> None:
    draw = generator(5, "reviews")
    lines = ["review,stars"]
    for i in range(150):
        good, bad = int(draw.integers(0, 5)), int(draw.integers(0, 5))
        words = ["lovely"] * good + ["broken"] * bad + ["thing", f"number{i}"]
        draw.shuffle(words)
        lines.append(f"{' '.join(words)},{3 + 0.5 * good - 0.5 * bad}")
    (tmp_path / "reviews.csv").write_text("\n".join([*lines, "an impossible one,99"]) + "\n")
    tiny_bert(tmp_path / "base")
    (tmp_path / "recipe.yaml").write_text(
        "name: stars\n"
        "task: {name: text_scoring, decimals: 2}\n"
        "base_model: base\n"
        "data:\n"
        "  path: reviews.csv\n"
        "  checks: [encoding, {name: number_range, lowest: 0, highest: 10}, exact_duplicates]\n"
        "train: {epochs: 8, batch_size: 16, max_length: 32}\n"
    )
    ended = run(["-m", "attune", "run", "recipe.yaml", "--json"], installed, tmp_path, ATTUNE_WORKSPACE=str(tmp_path / "workspace"))
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    told = ended.stdout
    assert any(verdict in told for verdict in ("SHIP", "NO-SHIP", "INCONCLUSIVE"))
    assert "mean_absolute_error" in told
    assert "mean_answer" in told


def test_a_name_that_is_taken_is_refused_with_both_owners(tmp_path: Path) -> None:
    ours = (Path(attune.__file__).parent / "catalog" / "metrics" / "accuracy.py").read_text()
    target = write_package(tmp_path / "site", "greedy", {"mine.py": ours}, {"metrics": {"accuracy": "mine"}})
    ended = run(["-m", "attune", "list", "metrics"], target, tmp_path)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 4, said
    assert "two plugs are called 'accuracy'" in said
    assert "greedy" in said
    assert "Traceback" not in said


def test_an_entry_point_to_nowhere_is_named(tmp_path: Path) -> None:
    target = write_package(tmp_path / "site", "torn", {}, {"metrics": {"gone": "nowhere"}})
    ended = run(["-m", "attune", "list", "metrics"], target, tmp_path)
    assert ended.returncode == 4
    assert "torn.nowhere" in ended.stdout + ended.stderr
