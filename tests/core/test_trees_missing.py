"""Without LightGBM everything else works, and the method says what to install."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lightgbm":
            raise ModuleNotFoundError(name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "lightgbm" else real(name, package)
sys.meta_path.insert(0, Absent())
from attune.cli import program
sys.exit(program.run(sys.argv[1:]))
"""


def attune(*words, cwd):
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=120, cwd=cwd, env=dict(os.environ))


def test_listing_works_and_the_method_says_what_is_missing(tmp_path):
    listed = attune("list", "methods", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "boosted_trees" in listed.stdout
    (tmp_path / "recipe.yaml").write_text("name: loans\ntask: tabular_classification\ndata: {path: rows.csv}\n")
    (tmp_path / "rows.csv").write_text("amount,outcome\n1,yes\n")
    checked = attune("check", "recipe.yaml", cwd=tmp_path)
    assert checked.returncode != 0
    assert "'lightgbm' is not installed" in checked.stderr
    assert "attune[tabular]" in checked.stderr
