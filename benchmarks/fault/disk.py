"""A disk that is full (or broken) from the k-th write-like call on: the last checkpoint stays valid, the run waits, and ends bit-identical.

The fault comes from a preloaded library below the checkpoint folder of the run: write, pwrite, writev, fsync, open with O_CREAT, mkdir,
rename, ftruncate. `full`: the disk stays full until the harness frees it, the run has to pause and go on by itself. `gone`: nobody frees
it, the run has to stop with a clear error and to go on when it is started again. `broken`: one call fails with EIO, likewise.
"""

from __future__ import annotations

import errno
from typing import Any

from attune.core.errors import MachineError
from fault import shim
from fault.ground import Ground, acknowledged, newest, step_of

CALLS = {"W": "write", "S": "fsync", "C": "create", "D": "mkdir", "R": "rename", "T": "truncate", "X": "delete", "\0": "none"}
MODES = ("full", "broken", "gone")


def counted(ground: Ground) -> tuple[tuple[str, list[Any]], int]:
    """Outcome of an undisturbed run, and how many calls it makes that can fail."""
    control = shim.shared()
    child = ground.run("count", before=lambda tell: shim.attach(control, ground.checkpoints("count")))
    return ground.outcome(child), int(control.calls)


def point(ground: Ground, run: str, k: int, mode: str, expected: tuple[str, list[Any]], twin: Any = None, only: str = "\0") -> dict[str, Any]:
    """Fail call `k` (of the kind `only`) and look what becomes of the run."""
    control = shim.shared()
    control.only = ord(only)
    control.fail_at, control.stay = k, mode != "broken"
    control.error = errno.EIO if mode == "broken" else errno.ENOSPC
    minutes = 0.02 if mode == "gone" else 5.0
    folder = ground.checkpoints(run)
    ground.forget(run)

    def before(tell: Any) -> None:
        shim.attach(control, folder)
        if twin is not None:
            twin(tell)

    child = ground.run(run, before=before, wait_for_disk=minutes)
    found: dict[str, Any] = {"k": k, "mode": mode}
    if mode == "full":
        found["paused"] = child.until(lambda event: event["kind"] == "warning" and "the run is paused" in event["message"])
        found["told_bytes_and_folder"] = any(event.get("need", 0) > 0 and event.get("folder") for event in child.said("warning"))
        stood = newest(folder)
        found["valid"] = step_of(stood) >= acknowledged(child)
        control.full = 0
        same, why = ground.compare(child, expected)
    else:
        code = child.end()
        stood = newest(folder)
        found["stopped_with"] = code
        found["valid"] = step_of(stood) >= acknowledged(child)
        again = ground.run(run, wait_for_disk=minutes)
        same, why = ground.compare(again, expected)
    found |= {"newest": stood, "failed_calls": int(control.failed), "call": CALLS[chr(control.what)], "identical": same}
    ground.forget(run)
    return {**found, **({} if same else {"why": why})}


def good(one: dict[str, Any]) -> bool:
    """Whether a point went as promised. Only the deletion of an old checkpoint may fail without a word: it is tried again after the next save."""
    deletion = one["call"] == CALLS["X"]
    paused = one["mode"] == "full" and one["paused"] and one["told_bytes_and_folder"]
    stopped = one["mode"] != "full" and one["stopped_with"] == MachineError.exit_code
    return bool((paused or stopped or (deletion and not one.get("stopped_with"))) and one["valid"] and one["identical"])
