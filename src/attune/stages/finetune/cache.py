"""Big things that can be computed again, kept in the workspace up to a limit: what was not used for the longest time goes first, and never what a run has in use."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attune.core.commit import committed_folder, is_valid, make_folder
from attune.core.errors import MachineError
from attune.core.events import Events

MOST, SHARE = 20e9, 0.1
"""The limit where none is set: so many bytes, or this share of what the disk could hold without the cache, whichever is less."""
SPARED = 200_000_000
"""Bytes of free disk that are left for checkpoints."""


class NoRoom(Exception):
    """What was to be kept does not fit; says why."""


class Cache:
    """Folders under a name that says all they depend on.

    Beside each lies a file whose lock every user holds (shared), as long as it uses the folder, and whose time is that of the last use.

    Args:
        folder: made when new.
        limit: bytes that all folders together may take; None: `MOST` or `SHARE` of the disk.
        events: told in one line when something had to go.
    """

    def __init__(self, folder: Path, limit: float | None = None, events: Events | None = None) -> None:
        self.folder, self.events = folder, events or Events()
        self._limit = limit

    @property
    def limit(self) -> float:
        """Bytes."""
        return min(MOST, SHARE * (_free(self.folder) + size_of(self.folder)[0])) if self._limit is None else self._limit

    def keep(self, name: str, need: int, make: Callable[[Path], None]) -> tuple[Path, IO[bytes], bool]:
        """The folder of that name, made when it is not there or not whole.

        Args:
            name: says all that the content depends on.
            need: bytes that it takes.
            make: fills a folder.

        Returns:
            the folder; an open file, until whose closing the folder stays; whether it was there.

        Raises:
            NoRoom: it does not fit into the limit or onto the disk.
        """
        if need > self.limit:
            raise NoRoom(f"they would take {need / 1e9:,.2g} GB, and the limit is {self.limit / 1e9:,.2g} GB (train.cache_gb)")
        try:
            make_folder(self.folder)
            used = (self.folder / f".{name}.lock").open("ab")
        except OSError as error:
            raise _refusal(need, error) or error from error
        target = self.folder / name
        try:
            fcntl.flock(used, fcntl.LOCK_SH)
            there = is_valid(target)
            if not there:
                with self._alone(name):
                    there = is_valid(target)  # by who was waited for
                    if not there:
                        self._make(target, need, make)
            os.utime(used.fileno())
        except BaseException:
            used.close()
            raise
        return target, used, there

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Two runs do not make the same thing twice."""
        with (self.folder / f".{name}.making").open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _make(self, target: Path, need: int, make: Callable[[Path], None]) -> None:
        self._sweep(target.name)
        self._require_disk(need, size_of(self.folder)[0])
        self._make_room(need, target)
        self._require_disk(need)
        try:
            with committed_folder(target) as new:
                make(new)
        except MachineError as error:
            raise _refusal(need, error.__cause__) or error from error

    def _sweep(self, own: str) -> None:
        """Delete what runs that were killed left half made."""
        for torn in self.folder.glob(".t*-*-*"):
            name = torn.name.split("-", 1)[1].rsplit("-", 1)[0]
            with _if_free(self.folder / f".{name}.making") as free:
                if free or name == own:  # its own lock is held by the caller
                    shutil.rmtree(torn, ignore_errors=True)

    def _require_disk(self, need: int, deletable: int = 0) -> None:
        free = _free(self.folder)
        if need + SPARED > free + deletable:
            raise NoRoom(f"they would take {need / 1e9:,.2g} GB, and the disk has {free / 1e9:,.2g} GB free")

    def _make_room(self, need: int, keep: Path) -> None:
        """Delete what was used longest ago and is not in use, until `need` bytes more fit into the limit and onto the disk."""
        limit, gone, freed = self.limit, 0, 0
        entries = sorted((entry for entry in _entries(self.folder) if entry[0] != keep), key=lambda entry: (entry[2], entry[0]))
        kept = sum(entry[1] for entry in entries)
        for path, size, _ in entries:
            if kept + need <= limit and need + SPARED <= _free(self.folder):
                break
            if _delete(path):
                kept, gone, freed = kept - size, gone + 1, freed + size
        if gone:
            self.events.note(f"cache: {gone} folder{'s' if gone != 1 else ''} not used for the longest time deleted ({freed / 1e6:,.0f} MB), to stay within {limit / 1e9:,.2g} GB", deleted=gone)
        if kept + need > limit:
            raise NoRoom(f"they would take {need / 1e9:,.2g} GB; {kept / 1e9:,.2g} GB of the limit of {limit / 1e9:,.2g} GB (train.cache_gb) are in use by other runs")


def _refusal(need: int, error: BaseException | None) -> NoRoom | None:
    """What an error means for what was to be kept, where it says that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return NoRoom(f"they would take {need / 1e9:,.2g} GB, and the disk is full") if full else None


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes and number of the kept folders."""
    entries = list(_entries(folder))
    return sum(size for _, size, _ in entries), len(entries)


def _entries(folder: Path) -> Iterator[tuple[Path, int, float]]:
    """Kept folders: path, bytes, time of the last use."""
    for path in folder.glob("[!.]*"):
        lock = path.with_name(f".{path.name}.lock")
        try:
            when = (lock if lock.exists() else path).stat().st_mtime
            yield path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), when
        except FileNotFoundError:
            continue  # another run deleted it meanwhile


def _delete(path: Path) -> bool:
    """Delete a kept folder, unless somebody uses it."""
    with _if_free(path.with_name(f".{path.name}.lock")) as free:
        if free:
            shutil.rmtree(path, ignore_errors=True)
        return free and not path.exists()


@contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Hold a lock alone for the time of the block, if nobody else holds it."""
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
