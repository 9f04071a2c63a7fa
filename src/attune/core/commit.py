"""The one commit point: a folder exists when, and only when, it holds a manifest that matches every file in it.

Write everything into a temporary folder beside the target, fsync each file, write COMMIT.json (size and sha256 of each file) last,
fsync, rename, fsync the parent. What has no matching manifest does not exist. The manifest carries a hash of itself (`check`).
An fsync that failed is never repeated on the same descriptor: the whole attempt fails, and the next one writes new files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attune.core.errors import IntegrityError, MachineError

MANIFEST = "COMMIT.json"


def sha256_file(path: Path) -> str:
    """sha256 hex of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, so that a power loss does not take them away again."""
    new = [one for one in (folder, *folder.parents) if not one.is_dir()]
    if new:
        folder.mkdir(parents=True, exist_ok=True)
    for one in new:
        _fsync(one.parent)
    return folder


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*"))
    for path in found:
        if path.is_symlink():
            raise IntegrityError(f"'{path.relative_to(folder).as_posix()}' is a link", place=str(folder), fix="copy the file itself: what a link points to can change")
    return [p for p in found if p.is_file() and p.relative_to(folder).as_posix() != MANIFEST]


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def digest_of_files(files: dict[str, Any]) -> str:
    """sha256 over a manifest's files: names, sizes and hashes."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _check(manifest: dict[str, Any]) -> str:
    """sha256 over everything a manifest says, but this hash itself."""
    return hashlib.sha256(json.dumps({name: value for name, value in manifest.items() if name != "check"}, sort_keys=True).encode()).hexdigest()


def seal(folder: Path, facts: dict[str, Any] | None = None) -> str:
    """Fsync every file of `folder`, write its manifest last and return the folder's digest (sha256 over names, sizes, hashes)."""
    files = {}
    for path in _files(folder):
        _fsync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    digest = digest_of_files(files)
    manifest = {"digest": digest, "files": files, "facts": facts or {}}
    _write_synced(folder / MANIFEST, json.dumps({**manifest, "check": _check(manifest)}, indent=1, sort_keys=True).encode())
    for inner in {p.parent for p in _files(folder)} | {folder}:
        _fsync(inner)
    return digest


@contextmanager
def committed_folder(target: Path, facts: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `target`, whole; on any error nothing remains.

    A `target` that exists and is valid is left as it is (same content, or the caller chose a new name); a torn one is replaced.
    """
    make_folder(target.parent)
    temporary = target.parent / f".tmp-{target.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
        seal(temporary, facts)
        publish(temporary, target)
    except OSError as error:
        raise MachineError(f"cannot write {target}: {error}", place=str(target), fix="free disk space or mend the permissions, then run again: nothing half-written is used") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, target: Path) -> None:
    """Rename a sealed folder to its place and make the rename durable."""
    if target.exists():
        if is_valid(target):
            _fsync(target.parent)  # who put it there may have died, or been refused, before its rename was durable
            return
        torn = target.parent / f".torn-{target.name}-{uuid.uuid4().hex[:8]}"
        os.rename(target, torn)
        shutil.rmtree(torn, ignore_errors=True)
    try:
        os.rename(temporary, target)
    except OSError:
        if not is_valid(target):
            raise
        # another process put the same content there between the look and the rename
    _fsync(target.parent)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder; raises IntegrityError when there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or not all(isinstance(one, dict) and {"size", "sha256"} <= set(one) for one in manifest["files"].values()):
            raise ValueError("not a manifest")
        return manifest
    except (OSError, ValueError) as error:
        raise IntegrityError(f"no readable {MANIFEST}", place=str(folder), fix="it was never committed or is damaged; make it again") from error


def verify(folder: Path) -> str:
    """Check every file against the manifest and return the folder's digest; raises IntegrityError naming the first file that differs."""
    manifest = manifest_of(folder)
    expected = manifest["files"]
    again = {"place": str(folder), "fix": "restore it from a backup or make it again"}
    # Manifests from before `check` hold exactly these keys, so that a damaged name of a key is no way round it.
    if manifest.get("check") != _check(manifest) and set(manifest) != {"digest", "facts", "files"}:
        raise IntegrityError(f"{MANIFEST} is not what was committed", **again)
    digest = digest_of_files(expected)
    if digest != manifest.get("digest"):
        raise IntegrityError("the manifest's digest does not match its files", **again)
    present = {p.relative_to(folder).as_posix(): p for p in _files(folder)}
    for name in sorted(set(expected) | set(present)):
        if name not in present:
            raise IntegrityError(f"file '{name}' is missing", **again)
        if name not in expected:
            raise IntegrityError(f"file '{name}' was added after the commit", place=str(folder), fix="remove it or make the folder again")
        path = present[name]
        if path.stat().st_size != expected[name]["size"] or sha256_file(path) != expected[name]["sha256"]:
            raise IntegrityError(f"file '{name}' is not what was committed", **again)
    return digest


def is_valid(folder: Path) -> bool:
    """True when `verify` passes."""
    try:
        verify(folder)
    except (IntegrityError, OSError):
        return False
    return True


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all: temporary file, fsync, rename."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all: temporary file, fsync, rename."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    make_folder(path.parent)
    temporary = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        _write_synced(temporary, content)
        os.rename(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_checked(path: Path, value: Any) -> None:
    """Write a JSON file with a hash of what it says: `read_checked` notices a flipped bit."""
    write_json(path, {"sha256": _check({"value": value}), "value": value})


def read_checked(path: Path) -> Any:
    """What `write_checked` wrote; raises IntegrityError when it is not that any more."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and set(found) == {"sha256", "value"} and found["sha256"] == _check({"value": found["value"]}):
            return found["value"]
        why = "it is not what was written"
    except (OSError, ValueError) as error:
        why = f"it cannot be read: {error}"
    raise IntegrityError(f"'{path.name}' is damaged: {why}", place=str(path), fix="restore it from a backup or make it again")
