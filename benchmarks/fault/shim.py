"""The preloaded library seen from Python: built with the system's C compiler, put before everything else by starting the program again."""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
BUILT, PREFIX = "ATTUNE_FAULT_SHIM", "attune-shim-"


class Control(ctypes.Structure):
    """Shared between the harness and the run that it forked."""

    _fields_ = [(name, ctypes.c_int64) for name in ("calls", "fail_at", "error", "stay", "full", "failed", "what", "only")]


def available() -> bool:
    return shutil.which("cc") is not None and sys.platform == "linux"


def build(folder: Path) -> Path:
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"], check=True)
    return library


def preloaded(arguments: list[str]) -> None:
    """Return when the library is loaded; else start this program again with it. The library is gone when the program ends."""
    if loaded := os.environ.get(BUILT):
        atexit.register(_remove, Path(loaded), os.getpid())
        return
    library = build(Path(tempfile.mkdtemp(prefix=PREFIX)))
    environment = {**os.environ, "LD_PRELOAD": str(library), BUILT: str(library)}
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def _remove(library: Path, owner: int) -> None:
    if os.getpid() == owner and library.parent.name.startswith(PREFIX):  # not when a forked run ends, and nothing that was not made here
        library.unlink(missing_ok=True)
        library.parent.rmdir()


def shared() -> Control:
    """Control words in memory that a forked child sees too."""
    return Control.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))


def attach(control: Control | None, folder: Path, log: Path | None = None) -> None:
    """From now on calls below `folder` are counted, failed and (with `log`) recorded, in this process."""
    library = ctypes.CDLL(os.environ[BUILT])
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else -1
    library.shim_attach(ctypes.byref(control) if control is not None else None, os.fsencode(folder), descriptor)


def mark(text: str) -> None:
    """Put a word into the record, at this place of the order."""
    ctypes.CDLL(os.environ[BUILT]).shim_mark(text.encode())
