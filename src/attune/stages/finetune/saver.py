"""Saves without stopping the training: the state is copied at a step's end, and a thread of its own writes, syncs and commits the copy."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attune.core.events import Events
from attune.core.memory import available_memory
from attune.stages.finetune.checkpoints import Checkpoints, DiskFull

if TYPE_CHECKING:
    import torch

SHARE = 0.25
"""A copy may take this share of the memory that is available; a larger state is written from where it lies while the training waits."""
KEPT = 64_000_000
"""Bytes of a copy that is kept for the next save, whose pages are then there already; a larger one is freed once it is on the disk."""
FIRST_LOOK, LAST_LOOK = 0.25, 60.0
"""Seconds between two looks whether a full disk has room again: the first, and the longest."""


@dataclass
class _Write:
    """One save on its way to the disk."""

    kind: str
    step: int
    tensors: Mapping[str, torch.Tensor]
    facts: str
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    skipped: bool = False
    """True when an earlier save had failed: this one must not be committed before it."""


class Saver:
    """At most one checkpoint (and the best weights it refers to) on its way to the disk; the next save waits for it.

    Errors of the thread surface in the thread that trains: at the next `poll`, save or `wait`. A full disk pauses the run there until
    there is room. A save is acknowledged (event `checkpoint`) only after its commit.

    Args:
        checkpoints: where to.
        events: who is told.
        patience: minutes to wait for room on a full disk.
    """

    def __init__(self, checkpoints: Checkpoints, events: Events, patience: float) -> None:
        self.checkpoints, self.events, self.patience = checkpoints, events, patience
        self.stop: Callable[[], bool] = lambda: False
        """Asked while the disk is full: True ends the wait."""
        self.saves, self.at_once, self.copied, self.waited = 0, 0, 0.0, 0.0
        self._buffers: dict[str, dict[str, torch.Tensor]] = {"step": {}, "best": {}}
        self._flying: deque[_Write] = deque()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._failed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for what is in flight, unless a person wants to stop at once. An error on its way out is not replaced by one of a save; that is told as a warning."""
        try:
            if error is None:
                self.wait()
            elif not isinstance(error, KeyboardInterrupt):
                self._land()
        finally:
            self._queue.put(None)
            self._thread = None
            self._buffers = {"step": {}, "best": {}}

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Save the state after `step` optimizer steps; the tensors may change as soon as this returns."""
        self._start("step", step, tensors, json.dumps(dict(facts)))

    def save_best(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Save the weights that were best at `step`; they are committed before any checkpoint saved later."""
        self._start("best", step, tensors, "{}")

    def poll(self) -> None:
        """Take note of what has been committed meanwhile, without waiting; raises what went wrong, and pauses when the disk is full."""
        while self._flying and self._flying[0].done.is_set():
            self._settle(self._flying[0])

    def busy(self) -> bool:
        """True while a save is on its way to the disk."""
        self.poll()
        return bool(self._flying)

    def wait(self) -> None:
        """Return when everything is committed."""
        self._wait_for(lambda write: True)

    def tell(self) -> None:
        """What the saves cost, as an event: times are no part of the record, which a resumed run must share with an undisturbed one."""
        text = f"{self.saves} saves in the background; training waited {self.copied:.2f} s for copies and {self.waited:.2f} s for saves in flight"
        text += f"; {self.at_once} written at once: a copy would take more than {SHARE:.0%} of the available memory" if self.at_once else ""
        self.events.emit("checkpoint", text, saves=self.saves, at_once=self.at_once, copied=self.copied, waited=self.waited)

    def _start(self, kind: str, step: int, tensors: Mapping[str, torch.Tensor], facts: str) -> None:
        began = time.perf_counter()
        self._wait_for(lambda write: write.kind == kind)
        seconds = time.perf_counter() - began
        self.waited += seconds
        if seconds > 0.1:
            self.events.emit("checkpoint", f"step {step}: waited {seconds:.1f} s for the save before", step=step, waited=seconds)
        self.poll()
        if not self._room(kind, tensors):
            self.at_once += 1
            self.wait()
            write = _Write(kind, step, tensors, facts, skipped=True)
            write.done.set()
            self._flying.append(write)
            self.poll()
            return
        began = time.perf_counter()
        copy = self._copy(kind, tensors)
        self.copied += time.perf_counter() - began
        self.saves += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="attune-saver", daemon=True)  # a second signal must not wait for it
            self._thread.start()
        write = _Write(kind, step, copy, facts)
        self._flying.append(write)
        self._queue.put(write)

    def _room(self, kind: str, tensors: Mapping[str, torch.Tensor]) -> bool:
        need = _bytes(tensors) - _bytes(self._buffers[kind])
        available = available_memory()
        return need <= 0 or need <= SHARE * available

    def _copy(self, kind: str, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """A copy in memory that training does not touch; the memory of the copy before is used again where shapes agree."""
        import torch

        old, new = self._buffers[kind], {}
        for name, tensor in tensors.items():
            buffer = old.pop(name, None)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            new[name] = buffer.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        self._buffers[kind] = new
        return new

    def _work(self) -> None:
        while (write := self._queue.get()) is not None:
            write.skipped = self._failed
            if not write.skipped:
                try:
                    self._put(write)
                except BaseException as error:  # raised where the training is, in _settle
                    write.error, self._failed = error, True
            write.done.set()

    def _put(self, write: _Write) -> None:
        if write.kind == "best":
            self.checkpoints.save_best(write.step, write.tensors)
        else:
            self.checkpoints.save(write.step, write.tensors, json.loads(write.facts))

    def _wait_for(self, which: Callable[[_Write], bool]) -> None:
        while any(which(write) for write in self._flying):
            self._flying[0].done.wait()
            self._settle(self._flying[0])

    def _settle(self, write: _Write) -> None:
        """Acknowledge a save that is committed; mend one that found the disk full; raise what cannot be mended."""
        try:
            if isinstance(write.error, DiskFull):
                self._pause(write, write.error)
            elif write.error is not None:
                raise write.error
            elif write.skipped:
                try:
                    self._put(write)
                except DiskFull as full:
                    self._pause(write, full)
        except BaseException:
            self._flying.clear()  # nothing saved later may be committed: it could refer to what is missing
            raise
        self._flying.popleft()
        write.tensors = {}
        if _bytes(self._buffers[write.kind]) > KEPT:
            self._buffers[write.kind] = {}
        self._failed = self._failed and bool(self._flying)
        self._acknowledge(write)

    def _acknowledge(self, write: _Write) -> None:
        if write.kind == "step":
            self.events.emit("checkpoint", f"step {write.step} is saved", step=write.step)

    def _pause(self, write: _Write, full: DiskFull) -> None:
        """Hold the run, with its state in memory, until the save succeeds."""
        until = time.monotonic() + 60 * self.patience
        if not self.patience:
            raise full
        said = f"the disk is full: the checkpoint of step {write.step} needs {full.need:,} bytes in {self.checkpoints.folder}"
        self.events.warn(
            f"{said}; the run is paused, keeps its state and goes on when there is room (it waits {self.patience:g} minutes)", step=write.step, need=full.need, folder=str(self.checkpoints.folder)
        )
        pause = FIRST_LOOK
        while True:
            left = until - time.monotonic()
            self._sleep(min(pause, left))
            if left <= 0 or self.stop():
                raise full
            pause = min(2 * pause, LAST_LOOK)
            try:
                self._put(write)
            except DiskFull as error:
                full = error
                continue
            self.events.note(f"there is room again: the checkpoint of step {write.step} is saved, the run goes on", step=write.step)
            return

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.stop():
            time.sleep(min(left, 0.5))

    def _land(self) -> None:
        """Let what is in flight finish while an error is on its way out."""
        for write in [*self._flying]:
            write.done.wait()
            if write.error is not None:
                self.events.warn(f"the checkpoint of step {write.step} was not saved: {write.error}", step=write.step)
                break
            if not write.skipped:
                self._acknowledge(write)
        self._flying.clear()


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())
