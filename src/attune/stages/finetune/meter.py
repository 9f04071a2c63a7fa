"""What a run takes, over all its starts: the figures that its record sets beside the forecast."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.core.memory import forget_peak, peak_memory


class Meter:
    """Counts from when it is made; the time between a killed start's last checkpoint and its end is not known and not counted."""

    def __init__(self) -> None:
        forget_peak()  # of stages before, in the same process
        self._began = time.monotonic()
        self._since = time.time()
        self._before: Mapping[str, Any] = {}
        self.disk = 0.0
        """The most bytes on the disk seen so far."""

    def go_on(self, facts: Mapping[str, Any]) -> None:
        """Go on from what the checkpoint of an earlier start says. Of several trials the one that says most; what this start wrote itself is in already."""
        if facts.get("since") != self._since and facts.get("seconds", 0.0) > self._before.get("seconds", 0.0):
            self._before = facts

    @property
    def earlier(self) -> float:
        """Seconds that earlier starts took, as far as their checkpoints tell."""
        return float(self._before.get("seconds", 0.0))

    def saw(self, disk: float) -> None:
        """So many bytes are on the disk now."""
        self.disk = max(self.disk, disk)

    def facts(self) -> dict[str, Any]:
        """seconds used; memory_bytes: highest resident size of a start's process; disk_bytes: the most that was held at once; starts; since: when this one began."""
        before = self._before
        return {
            "seconds": round(before.get("seconds", 0.0) + time.monotonic() - self._began, 3),
            "memory_bytes": max(before.get("memory_bytes", 0.0), peak_memory()),
            "disk_bytes": max(before.get("disk_bytes", 0.0), self.disk),
            "starts": before.get("starts", 0) + 1,
            "since": self._since,
        }


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
