"""Rooms are where the design says, tests stand where what they test stands, and the lock covers everything that is imported."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from attune.core import catalog
from tests.house.rules import REPOSITORY, SOURCE

TESTS = REPOSITORY / "tests"
OF_THEIR_OWN = {"house", "conformance", "plugs", "cycle", "chaos", "parity", "docs", "network_guard", "build"}
"""Folders of tests that look at more than one room."""


def test_kinds_are_folders_and_contracts() -> None:
    folders = {path.name for path in (SOURCE / "catalog").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(catalog.KINDS)
    suites = {path.stem for path in (SOURCE / "testing" / "kinds").glob("*.py") if not path.stem.startswith("_")}
    assert suites == set(catalog.KINDS), "every kind has its conformance checks"


def rooms_without_a_place(tests: Path) -> list[str]:
    """Folders of tests that mirror nothing in the package."""
    found = []
    for folder in sorted({path.parent for path in tests.rglob("test_*.py")}):
        parts = folder.relative_to(tests).parts
        if not parts or parts[0] in OF_THEIR_OWN:
            continue
        if not any((SOURCE / room / Path(*parts)).exists() for room in ("", "stages")):
            found.append("/".join(parts))
    return found


def test_tests_mirror_the_package(tmp_path: Path) -> None:
    assert rooms_without_a_place(TESTS) == []
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "test_x.py").write_text("")
    assert rooms_without_a_place(tmp_path) == ["elsewhere"]


def test_every_folder_of_tests_is_a_package() -> None:
    """So that two files of the same name in two folders do not meet."""
    assert [str(folder) for folder in {path.parent for path in TESTS.rglob("test_*.py")} if not (folder / "__init__.py").is_file()] == []


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in pins), "the lock holds names and exact versions, and nothing else"
    return {canonical(line.split("==")[0]): line.split("==")[1] for line in pins}


def lacking(pins: dict[str, str]) -> list[str]:
    """What Attune (with its test needs), or what it needs in turn, asks for and the lock does not give."""
    from packaging.requirements import Requirement

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [Requirement(one) for one in [*project["dependencies"], *extras["dev"], *extras["postgres"]]]
    left_out = {"torch", "sentence-transformers"}  # the lock says why
    seen: set[str] = set()
    missing: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonical(wanted.name)
        if name in left_out:
            continue
        if name not in pins or not wanted.specifier.contains(pins[name], prereleases=True):
            missing.add(str(wanted))
            continue
        key = f"{name}[{','.join(sorted(wanted.extras))}]"
        if key in seen:
            continue
        seen.add(key)
        for one in importlib.metadata.requires(name) or []:
            needed = Requirement(one)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(needed)
    return sorted(missing)


def test_the_lock_gives_everything_that_is_asked_for() -> None:
    pins = locked()
    assert lacking(pins) == []
    assert not {"torch", "attune"} & set(pins)
    assert lacking({name: version for name, version in pins.items() if name != "anyio"}) != []
    assert lacking({**pins, "numpy": "1.0"}) != []


def test_the_build_tools_are_locked_too() -> None:
    assert "setuptools" in locked()


def test_makefile_and_check_are_there() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("setup", "demo", "test", "lint"):
        assert f"\n{target}:" in makefile
    check = REPOSITORY / ".ci" / "run"
    assert check.stat().st_mode & 0o111, ".ci/run can be executed"
