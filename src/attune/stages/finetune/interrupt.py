"""Ctrl-C and SIGTERM while a run trains: the first asks it to stop at the next step's end, the second stops it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Holds SIGINT and SIGTERM back while the block runs; only in the main thread, where Python lets signals be handled.

    After the block `follow` lets the signal take the course that it would have taken without us: the program's own handler, or the
    system's. A signal that was ignored before stays ignored.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        """The number of the signal that asked to stop."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    @property
    def name(self) -> str:
        """The signal as people call it."""
        return signal.Signals(self.asked).name if self.asked is not None else ""

    def follow(self) -> None:
        """Let the signal that was held back act now; does nothing when none came."""
        if self.asked is not None:
            signal.raise_signal(self.asked)
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # No event is written here: the thread may stand in the middle of writing one.
        if self.asked is None:
            self.asked = number
            return
        self._restore()
        self.follow()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
