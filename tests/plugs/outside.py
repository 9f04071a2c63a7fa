"""Packages of plugs outside the repository: installed as a user would, or written by hand for one test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent / "attune_example_plugs"


def install(project: Path, target: Path, scratch: Path) -> Path:
    """pip-install a copy of a project into a folder of its own, offline and without what it depends on."""
    copy = scratch / project.name
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target), str(copy)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return target


def write_package(target: Path, name: str, files: dict[str, str], points: dict[str, dict[str, str]]) -> Path:
    """Lay out an installed package by hand: module files, and the metadata that holds its entry points (kind -> plug -> module)."""
    package = target / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Plugs for a test."""\n')
    for file, text in files.items():
        (package / file).write_text(text)
    facts = target / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [line for kind, plugs in points.items() for line in (f"[attune.{kind}]", *(f"{plug} = {name}.{module}" for plug, module in plugs.items()))]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return target


def seeing(target: Path, **more: str) -> dict[str, str]:
    """The environment of a program that sees the packages in a folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])]), **more}
