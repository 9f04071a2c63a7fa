"""The content store: committed folders under their own digest. Equal content is kept once; nothing in it ever changes."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attune.core import commit
from attune.core.errors import IntegrityError, MachineError

NAME_LENGTH = 24


class Store:
    """Folders addressed as `<kind>/<first 24 hex digits of the digest>`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, kind: str, fill: Callable[[Path], Any]) -> str:
        """Let `fill` write files into a fresh folder, commit it, and return its store key."""
        parent = self.root / kind
        try:
            commit.make_folder(parent)
            temporary = parent / f".tmp-{uuid.uuid4().hex[:12]}"
            temporary.mkdir()
        except OSError as error:
            raise MachineError(f"cannot write to the store: {error}", place=str(parent), fix="free disk space or mend the permissions") from error
        try:
            fill(temporary)
            digest = commit.seal(temporary)
            name = digest[:NAME_LENGTH]
            commit.publish(temporary, parent / name)
        except OSError as error:
            raise MachineError(f"cannot write to the store: {error}", place=str(parent), fix="free disk space or mend the permissions, then run again") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return f"{kind}/{name}"

    def path(self, key: str) -> Path:
        """The folder of a key, whole and unchanged; raises IntegrityError otherwise. Keys come from records, never from users."""
        try:
            folder = (self.root / key).resolve()
        except (ValueError, OSError) as error:
            raise IntegrityError(f"store key {key!r} is no path", place=str(self.root)) from error
        if os.path.commonpath([folder, self.root.resolve()]) != str(self.root.resolve()):
            raise IntegrityError(f"store key '{key}' points outside the store", place=str(self.root))
        digest = commit.verify(folder)
        if digest[:NAME_LENGTH] != folder.name:
            raise IntegrityError(f"store folder '{key}' does not hold what its name says", place=str(folder))
        return folder

    def has(self, key: str) -> bool:
        """True when the key's folder is there, whole and unchanged."""
        try:
            self.path(key)
        except (IntegrityError, OSError):
            return False
        return True
