"""A real disk that is really full: the whole workspace on a small tmpfs, filled to the last byte while the run saves."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fault.ground import LIMIT, Ground, acknowledged, newest, step_of
from fault.kill import Saves

MOUNTED = "ATTUNE_FAULT_DISK"


def mounted(arguments: list[str]) -> Path:
    """The folder of a small disk; starts this program again in a mount namespace of its own when there is none yet. Needs Linux and root."""
    found = os.environ.get(MOUNTED)
    if found:
        return Path(found)
    folder = Path(subprocess.run(["mktemp", "-d", "-t", "attune-disk-XXXXXX"], check=True, capture_output=True, text=True).stdout.strip())
    inner = ["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(folder)]
    code = "import os, subprocess, sys; subprocess.run(sys.argv[1:8], check=True); os.execv(sys.executable, [sys.executable, *sys.argv[8:]])"
    os.environ[MOUNTED] = str(folder)
    ended = subprocess.run(["unshare", "-m", sys.executable, "-c", code, *inner, *arguments], check=False)
    folder.rmdir()
    sys.exit(ended.returncode)


def point(ground: Ground, run: str, expected: tuple[str, list[Any]], draw: random.Random) -> dict[str, Any]:
    """Fill the disk at some moment of a save or between two, free it, and compare."""
    folder = ground.checkpoints(run)
    child = ground.run(run, wait_for_disk=5)
    saves, wanted, deadline = Saves(folder), draw.randint(1, 9), time.monotonic() + LIMIT
    while wanted > 0 and child.alive() and time.monotonic() < deadline:
        wanted -= saves.new()
        child.listen(0.0002)
    time.sleep(draw.uniform(0, 0.02))
    ballast = ground.root / "ballast"
    _fill(ballast)
    paused = child.until(lambda event: event["kind"] == "warning" and "the run is paused" in event["message"], 30)
    valid = step_of(newest(folder)) >= acknowledged(child)
    ballast.unlink()
    same, why = ground.compare(child, expected)
    ground.forget(run)
    return {"paused": paused, "valid": valid, "identical": same, **({"why": why} if why else {})}


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while stream.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
