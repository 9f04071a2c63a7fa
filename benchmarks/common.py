"""What every benchmark shares: facts about the commit and the machine, running the command line, writing the result."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def commit() -> str:
    """Short id of the commit that is measured, with '+changes' when the tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "src") else "")


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    import torch

    processor = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def attune(*words: str, folder: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the command line with --json in `folder` and return what it printed; raises with its error text when it fails.

    A verdict that is not SHIP is a result, not a failure.
    """
    done = subprocess.run([sys.executable, "-m", "attune", *words, "--json"], cwd=folder, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"attune {' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Kept:
    """Results of a benchmark so far, a line each, so that it can be run in pieces.

    Args:
        path: where to; None: nothing is kept.
        minutes: after so long no further part is begun.
    """

    def __init__(self, path: Path | None, minutes: float | None = None) -> None:
        self.path = path
        self.until = time.monotonic() + 60 * minutes if minutes else None
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path is not None and path.is_file() else []

    def find(self, **what: Any) -> dict[str, Any] | None:
        """The kept result with these values, if there is one."""
        return next((one for one in self.lines if all(one.get(name) == value for name, value in what.items())), None)

    def add(self, one: dict[str, Any]) -> None:
        """Keep a result."""
        self.lines.append(one)
        if self.path is not None:
            with self.path.open("a") as stream:
                stream.write(json.dumps(one) + "\n")

    def time_is_up(self) -> bool:
        """True when the rest has to wait for the next call."""
        return self.until is not None and time.monotonic() > self.until


def write(out: Path | None, name: str, body: dict[str, Any]) -> Path:
    """Write a benchmark's JSON (default: benchmarks/results/<name>.json) with commit, machine and date."""
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": name, "commit": commit(), "date": time.strftime("%Y-%m-%d"), "machine": machine(), **body}, indent=1, sort_keys=True) + "\n")
    print(f"wrote {path}")
    return path
