"""Stages and progress while they happen: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SHOW_AFTER = 2.0
"""Seconds that something must last before its progress is shown."""
PLAIN_EVERY = 10.0
"""Seconds between two progress lines where the output is no terminal; the longer it goes on, the rarer they get."""


class Live:
    """Listens to `stage` and `progress` events."""

    def __init__(self, err: Console) -> None:
        self.err = err
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._stage_began = 0.0
        self._what = ""
        self._what_began = (0.0, 0)
        """When the present thing was first heard of, and how far it was then."""
        self._heard = (0.0, 0)
        """When it was heard of last, and how far it was then."""
        self._waiting: dict[str, tuple[float, int, int]] = {}
        """Things that another one interrupts, as a look at the validation rows does training: seconds they took, how far they were first and last."""
        self._told = 0.0

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        if event["kind"] == "progress":
            self._progress(event)
        elif event["state"] == "started":
            self._stage, self._stage_began, self._what = event["message"], event["at"], ""
            self._waiting.clear()
            self._start(self._stage)
        else:
            self.stop()
            unchanged = event["state"] == "unchanged"
            mark = ("· " if unchanged else "✓ ") if self.err.is_terminal else ""
            spent = "unchanged" if unchanged else f"{event['at'] - self._stage_began:.1f} s"
            self.err.print(f"{mark}{event['message']:9} {spent}", style="dim" if unchanged else "green")

    def _progress(self, event: dict[str, Any]) -> None:
        what, at, done, total = event["message"], event["at"], event["done"], event["total"]
        if what != self._what:
            self._turn_to(what, at, done)
        self._heard = (at, done)
        seconds = at - self._what_began[0]
        if seconds < SHOW_AFTER:
            return
        rate = (done - self._what_began[1]) / seconds
        left = f" · {clock((total - done) / rate)} left" if rate > 0 else ""
        facts = "".join(f" · {name.replace('_', ' ')} {value:.3g}" for name, value in event.items() if isinstance(value, float) and name != "at")
        line = f"{done}/{total} · {rate:.3g}/s{left}{facts}"
        if self.err.is_terminal:
            self._start(self._stage or what)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, total=total, completed=done, line=line, description=_title(self._stage, what))
        elif at - self._told >= max(PLAIN_EVERY, 0.15 * seconds) or done == total:
            self._told = at
            self.err.print(f"{_title(self._stage, what)} {line}", soft_wrap=True)
        if done == total and not self._stage:
            self.stop()

    def _turn_to(self, what: str, at: float, done: int) -> None:
        if self._what:
            self._waiting[self._what] = (self._heard[0] - self._what_began[0], self._what_began[1], self._heard[1])
        seconds, first, last = self._waiting.pop(what, (0.0, done, done))
        if done <= last:  # it begins, or begins anew
            self._what_began = (at, done)
        else:
            self._what_began = (self._heard[0] - seconds, first)
        self._what, self._told = what, max(self._told, self._what_began[0])

    def _start(self, name: str) -> None:
        if self._bar is not None or not self.err.is_terminal:
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", style="bold", markup=False), BarColumn(bar_width=28), TextColumn("{task.fields[line]}", style="dim", markup=False))
        self._bar = Progress(*columns, console=self.err, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(name, total=None, line="")

    def stop(self) -> None:
        """End the live display."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _title(stage: str, what: str) -> str:
    return f"{stage}: {what}" if stage and what != stage else what


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
