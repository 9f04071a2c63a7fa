"""The fault harness at small n: nothing fails that should not, and every planted fault is caught."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from fault import shim, torn  # noqa: E402

needs_compiler = pytest.mark.skipif(not shim.available(), reason="needs Linux and a C compiler")


def harness(folder: Path, *words: str) -> dict:
    out = folder / "result.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "faults.py"), *words, "--out", str(out)], capture_output=True, text=True, timeout=400, check=False, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["failures"] == 0, found["failed"]
    assert all(found["twins"].values()), found["twins"]
    return found


def test_killed_runs_end_bit_identical(tmp_path):
    found = harness(tmp_path, "kill", "--n", "4")
    assert found["details"]["inside_a_save"] >= 1
    again = harness(tmp_path, "kill", "--n", "5")
    assert again["trials"][:4] == found["trials"], "it goes on where it stood"


@needs_compiler
def test_a_full_or_broken_disk_destroys_nothing(tmp_path):
    found = harness(tmp_path, "disk", "--n", "3")
    assert found["n"] == 9


def test_flipped_bits_are_refused(tmp_path):
    found = harness(tmp_path, "bitflip", "--n", "56")
    assert len(found["details"]["positions"]) == 7


@needs_compiler
def test_a_power_loss_takes_nothing_that_was_acknowledged(tmp_path):
    harness(tmp_path, "torn", "--n", "15")


def ops(*given):
    return [torn.Op(what, path, other, 0, data) for what, path, other, data in given]


def test_the_play_of_a_power_loss_keeps_what_was_synced_and_may_lose_the_rest(tmp_path):
    """The simulation itself: after fsync of file and folder everything is sure; before, both outcomes come up."""
    import random

    written = [("D", "t", "", b""), ("C", "t/a", "", b""), ("W", "t/a", "", b"x" * 2000)]
    sealed = [*written, ("S", "t/a", "", b""), ("S", "t", "", b""), ("R", "t", "done", b""), ("S", "", "", b"")]
    outcomes = set()
    for number in range(60):
        draw = random.Random(number)
        for name, record in (("torn", written), ("whole", sealed)):
            target = tmp_path / f"{name}-{number}"
            torn.lose(torn.play(ops(*record)), target, draw, journal=number % 2 == 0)
            if name == "whole":
                assert [path.name for path in target.iterdir()] == ["done"]
                assert (target / "done" / "a").read_bytes() == b"x" * 2000
            else:
                made = target / "t" / "a"
                outcomes.add((made.parent.exists(), made.exists(), made.read_bytes()[:1] if made.exists() else None, made.stat().st_size if made.exists() else None))
    assert {(False, False, None, None), (True, False, None, None), (True, True, b"x", 2000), (True, True, b"", 0), (True, True, b"\0", 2000)} <= outcomes
