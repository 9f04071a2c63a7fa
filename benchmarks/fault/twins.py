"""Planted faults, set in a child before it runs: each harness has to catch its own, or the harness is broken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def hasty(_tell: Any = None) -> None:
    """A saver that says 'saved' when it starts to save."""
    from attune.stages.finetune.saver import Saver

    start = Saver._start

    def eager(self: Saver, kind: str, step: int, tensors: Any, facts: str) -> None:
        if kind == "step":
            self.events.emit("checkpoint", f"step {step} is saved", step=step)
        start(self, kind, step, tensors, facts)

    Saver._start = eager  # type: ignore[method-assign]


def unsynced(_tell: Any = None) -> None:
    """A writer that never calls fsync."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


def deaf(_tell: Any = None) -> None:
    """A writer that goes on when fsync fails."""
    sync = os.fsync

    def unheard(descriptor: Any) -> None:
        with suppress(OSError):
            sync(descriptor)

    os.fsync = unheard  # type: ignore[assignment]


@contextmanager
def _in_place(target: Path, _facts: Any = None) -> Iterator[Path]:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    yield target


def _present(folder: Path) -> str:
    from attune.core.errors import IntegrityError

    if not folder.is_dir():
        raise IntegrityError("it is missing", place=str(folder))
    return ""


def early(_tell: Any = None) -> None:
    """Checkpoints that are there before their files, written in their place and chosen by their number: what many trainers do."""
    from attune.stages.finetune import checkpoints

    checkpoints.committed_folder = _in_place  # type: ignore[assignment]
    blind()


def blind(_tell: Any = None) -> None:
    """A verifier that looks whether a folder is there, and hashes nothing."""
    from attune.stages.finetune import checkpoints

    checkpoints.verify = _present
