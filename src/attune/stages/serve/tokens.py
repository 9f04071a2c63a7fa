"""The endpoint's token: made at the first start, kept readable by its owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from attune.core.errors import MachineError, Refused
from attune.core.workspace import Workspace

SHORTEST = 32


def token_file(workspace: Workspace, specialist: str) -> Path:
    """Where a specialist's token lies."""
    return workspace.root / "tokens" / specialist


def token_of(workspace: Workspace, specialist: str) -> str:
    """The specialist's token; made when there is none.

    Raises:
        Refused: other users of the machine can read the file.
        MachineError: the file holds no token, or cannot be read or made.
    """
    path = token_file(workspace, specialist)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise Refused("others can read the endpoint's token", place=str(path), fix=f"chmod 600 {path}, or remove it: a new one is made at the next start")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"the endpoint's token cannot be read: {error}", place=str(path), fix="mend the permissions, or remove the file: a new one is made at the next start") from error
    if len(token) < SHORTEST:
        raise MachineError("the endpoint's token is too short", place=str(path), fix="remove the file: a new one is made at the next start")
    return token


def _make(path: Path) -> None:
    """Write a new token whole and readable by its owner alone; when another process was first, its token stays."""
    temporary = path.parent / f".tmp-{path.name}-{secrets.token_hex(4)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
