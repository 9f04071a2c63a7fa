"""What to do when memory runs out: the same work in smaller parts."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_SIGNS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "failed to allocate")


def available_memory() -> int:
    """Bytes of memory that can be had without pushing anything out, on the machine or in the container."""
    import psutil

    return min(int(psutil.virtual_memory().available), _free_in_group(Path("/sys/fs/cgroup")))


def _free_in_group(group: Path) -> int:
    """Bytes left to a control group; what files keep in the cache and nobody has used of late counts as free: the kernel drops it first."""
    with suppress(OSError, ValueError):  # no Linux, no such group, or one without a limit
        used = int((group / "memory.current").read_text())
        idle = next((int(line.split()[1]) for line in (group / "memory.stat").read_text().splitlines() if line.startswith("inactive_file ")), 0)
        return int((group / "memory.max").read_text()) - max(0, used - idle)
    return sys.maxsize


def peak_memory() -> float:
    """The most memory that this process held (since `forget_peak`, where the system can), in bytes. What `resource` says may be the parent's from before the start."""
    with suppress(OSError, StopIteration, ValueError):
        line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
        return float(line.split()[1]) * 1024
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let `peak_memory` count from here on; without effect on a system that cannot."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident size


class _Kept(ctypes.Structure):
    """What glibc's `mallinfo2` says; `free` are bytes that were given back to the allocator and not to the system."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "chunks", "small", "mapped", "mapped_bytes", "unused", "small_bytes", "used", "free", "top")]


@lru_cache(maxsize=1)
def _allocator() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallinfo2.restype = _Kept
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):  # another system or an older library
        return None
    return library


def give_back(above: int) -> bool:
    """Hand freed memory back to the system when the allocator keeps more than `above` bytes of it; batches of ever new sizes leave holes.

    Returns:
        whether anything was to be done.
    """
    library = _allocator()
    if library is None or library.mallinfo2().free <= above:
        return False
    library.malloc_trim(0)
    return True


def ran_out(error: BaseException) -> bool:
    """True when an error says that memory ran out, in any of the ways that Python and torch say it."""
    return isinstance(error, MemoryError) or (isinstance(error, (RuntimeError, OSError)) and any(sign in str(error).lower() for sign in _SIGNS))


def in_parts(work: Callable[[Sequence[T]], list[R]], items: Sequence[T], told: Callable[[int], Any] = lambda size: None) -> list[R]:
    """`work(items)`; where memory runs out, halves of them one after the other, down to single items.

    Args:
        work: answers of items, one for each and in order, where no answer depends on the other items.
        told: called with the size of the parts when they get smaller.

    Raises:
        whatever `work` raises; the memory's own error when a single item does not fit.
    """
    try:
        return work(items)
    except (MemoryError, RuntimeError, OSError) as error:
        if not ran_out(error) or len(items) < 2:
            raise
    gc.collect()
    half = (len(items) + 1) // 2
    told(half)
    return in_parts(work, items[:half], told) + in_parts(work, items[half:], told)
