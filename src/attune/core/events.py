"""Run events: what happened, when, as JSON lines on disk and as calls to whoever listens (the command line draws progress from them)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
HELD = 1000
"""How many events wait for a file to be named, or for room on a full disk; beyond that the oldest go."""
Listener = Callable[[dict[str, Any]], None]


class Events:
    """Writes events of one run and passes them on. Kinds in use: run, stage, note, warning, progress, checkpoint, receipt, result."""

    def __init__(self, path: Path | None = None, listeners: Iterable[Listener] = ()) -> None:
        self.path: Path | None = None
        self.listeners = list(listeners)
        self._held: deque[dict[str, Any]] = deque(maxlen=HELD)
        if path is not None:
            self.write_to(path)

    def write_to(self, path: Path) -> None:
        """From now on write to this file; what was said before it was known is written first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        if self._held:
            self._write(self._held.pop())

    def _write(self, happened: dict[str, Any]) -> None:
        self._held.append(happened)
        while self.path is not None and self._held:
            try:
                self._append(self.path, self._held[0])
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return  # a full disk must not end the run that is about to tell of it: the event waits for room
            self._held.popleft()

    def _append(self, path: Path, happened: dict[str, Any]) -> None:
        line = (json.dumps(happened, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")
        with path.open("a+b", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # threads and processes must neither mix their lines nor take one that is being written for a torn one
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 1, 0))
            if size and stream.read(1) != b"\n":
                line = b"\n" + line  # the last line was torn by a crash: it must not take this one with it
            if stream.write(line) != len(line):
                stream.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def emit(self, kind: str, message: str = "", **facts: Any) -> None:
        """Record one event; progress is passed on but not written."""
        happened = {"at": time.time(), "kind": kind, "message": message, **facts}
        if kind != "progress":
            self._write(happened)
        for listener in self.listeners:
            listener(happened)

    def note(self, message: str, **facts: Any) -> None:
        """Something worth knowing."""
        self.emit("note", message, **facts)

    def warn(self, message: str, **facts: Any) -> None:
        """Something worth acting on."""
        self.emit("warning", message, **facts)

    def progress(self, what: str, done: int, total: int, **facts: Any) -> None:
        """How far a long thing is; the listener computes rate and time left."""
        self.emit("progress", what, done=done, total=total, **facts)

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """Iterate with progress events."""
        for done, item in enumerate(items, start=1):
            yield item
            self.progress(what, done, total)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Events of a run's file; a last line torn by a crash is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
