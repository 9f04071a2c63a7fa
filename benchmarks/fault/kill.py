"""SIGKILL of a run's process group, most of them inside a save, some while it resumes; the end must be bit-identical to an undisturbed run's."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault.ground import LIMIT, Child, Ground, acknowledged, newest, step_of

KINDS = {"save": 0.72, "resume": 0.16, "any": 0.12}
"""What a trial aims at: inside a save; twice, the second time before the resumed run's first step; any moment."""


class Saves:
    """Sees a save begin: a temporary folder appears (or, for a planted writer, the folder itself: `sign`)."""

    def __init__(self, folder: Path, sign: str = ".tmp-") -> None:
        self.folder, self.sign = folder, sign
        self.seen: set[str] = set(self.now())

    def now(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if name.startswith((self.sign, ".torn-"))]
        except FileNotFoundError:
            return []

    def new(self) -> int:
        fresh = {name for name in self.now() if name.startswith(self.sign)} - self.seen
        self.seen |= fresh
        return len(fresh)


def reference(ground: Ground) -> dict[str, Any]:
    """An undisturbed run: its outcome and its times."""
    ground.outcome(ground.run("warm"))
    began = time.perf_counter()
    child = ground.run("whole")
    saves, starts = Saves(ground.checkpoints("whole")), []
    first = None
    while child.alive():
        if saves.new():
            starts.append(time.perf_counter())
        child.listen(0.0003)
        if first is None and child.said("progress"):
            first = time.perf_counter() - began
    outcome = ground.outcome(child)
    seconds = time.perf_counter() - began
    return {"outcome": outcome, "seconds": seconds, "startup": first, "saves": len(starts), "save": 0.5 * (starts[-1] - starts[0]) / max(1, len(starts) - 1)}


def trial(ground: Ground, run: str, known: dict[str, Any], draw: random.Random, before: Callable[[Any], None] | None = None, sign: str = ".tmp-") -> dict[str, Any]:
    """Kill, go on, compare."""
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    kills: list[dict[str, Any]] = []
    lost = 0

    def kill(child: Child) -> None:
        nonlocal lost
        if child.kill():
            stood = newest(ground.checkpoints(run))
            lost += step_of(stood) < acknowledged(child)
            inside = bool(Saves(ground.checkpoints(run)).now())
            kills.append({"in_save": inside, "before_first_step": not child.said("progress"), "resuming": bool(kills), "newest": stood})

    for _ in range(50):  # a run may end before the moment comes: then it is drawn again
        if kills:
            break
        ground.forget(run)
        child = ground.run(run, before=before)
        if kind == "any":
            time.sleep(draw.uniform(0.02, 0.95) * known["seconds"])
        else:
            _wait_for_save(child, ground.checkpoints(run), draw.randint(1, max(1, known["saves"] - 1)), sign)
            time.sleep(draw.uniform(0, known["save"]))
        kill(child)
    if kind == "resume":
        child = ground.run(run, before=before)
        time.sleep(draw.uniform(0.1, 1.0) * known["startup"])
        kill(child)
    same, why = ground.compare(ground.run(run, before=before), known["outcome"])
    ground.forget(run)
    return {"aim": kind, "identical": same, "acknowledged_lost": lost, "kills": kills, **({} if same else {"why": why})}


def _wait_for_save(child: Child, folder: Path, number: int, sign: str) -> None:
    saves, count, deadline = Saves(folder, sign), 0, time.monotonic() + LIMIT
    while count < number and child.alive() and time.monotonic() < deadline:
        count += saves.new()
        child.listen(0.0002)


def failures(trials: list[dict[str, Any]]) -> int:
    return sum(not one["identical"] or one["acknowledged_lost"] > 0 for one in trials)
