"""The workspace: one folder with everything Attune knows: `ledger.db`, `store/`, `runs/`, `tokens/`."""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attune.core.commit import make_folder
from attune.core.errors import MachineError
from attune.core.events import Events, Listener
from attune.core.ledger import Ledger
from attune.core.records import Record, digest
from attune.core.store import Store

R = TypeVar("R", bound=Record)

DEFAULT_FOLDER = ".attune"
ELSEWHERE = "name a folder that you may write to: --workspace FOLDER (or ATTUNE_WORKSPACE)"


class Workspace:
    """Opens (and makes, when new) a workspace folder.

    Args:
        root: the folder; default: ATTUNE_WORKSPACE or `.attune` in the working directory.
        ledger_url: SQLAlchemy URL; default: ATTUNE_LEDGER_URL or SQLite inside the folder.
        listeners: who hears the events of runs.

    Raises:
        MachineError: the folder cannot be made or used; says what is in the way.
    """

    def __init__(self, root: Path | str | None = None, ledger_url: str | None = None, listeners: tuple[Listener, ...] = ()) -> None:
        self.root = Path(root or os.environ.get("ATTUNE_WORKSPACE") or DEFAULT_FOLDER).resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"the workspace cannot be made: {_in_the_way(self.root, error)}", place=f"--workspace {self.root}", fix=ELSEWHERE) from error
        self.store = Store(self.root / "store")
        own = self.root / "ledger.db"
        url = ledger_url or os.environ.get("ATTUNE_LEDGER_URL") or f"sqlite:///{own}"
        try:
            self.ledger = Ledger(url)
        except MachineError as error:
            if url != f"sqlite:///{own}" or os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
                raise
            raise MachineError(f"the workspace cannot be used: {_no_permission(self.root)}", place=f"--workspace {self.root}", fix=f"give that permission back, or {ELSEWHERE}") from error
        self.listeners = listeners

    def run_folder(self, name: str) -> Path:
        """The folder of a run, made when new."""
        return make_folder(self.root / "runs" / name)

    def events(self, run: str) -> Events:
        """Events of a run: its JSON lines file plus the listeners."""
        return Events(self.run_folder(run) / "events.jsonl", self.listeners)

    def known(self, name: str, inputs: dict[str, Any], record_type: type[R]) -> R | None:
        """The record that a stage made of the same inputs before, when its stored content is still whole; else None."""
        found = self.ledger.result(digest({"stage": name, "inputs": inputs}))
        return found if isinstance(found, record_type) and self.store.has(getattr(found, "store_key", "")) else None

    def stage(self, name: str, inputs: dict[str, Any], record_type: type[R], work: Callable[[], R], *, events: Events, fresh: bool = False) -> R:
        """Run a stage unless the same inputs made a record before whose stored content is still whole.

        `inputs` must hold everything the result depends on, as JSON. The record is written to the ledger here and nowhere else.
        """
        fingerprint = digest({"stage": name, "inputs": inputs})
        known = None if fresh else self.known(name, inputs, record_type)
        if known is not None:
            events.emit("stage", name, state="unchanged", record=known.id)
            return known
        events.emit("stage", name, state="started")
        record = self.ledger.add(work(), actor=actor(), fingerprint=fingerprint, stage=name)
        events.emit("stage", name, state="finished", record=record.id)
        return record

    def close(self) -> None:
        """Give back the ledger's connections."""
        self.ledger.close()


def _in_the_way(folder: Path, error: OSError) -> str:
    """Why a folder cannot be made: the file that lies in its path, the parent that may not be written, or the system's own words."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return f"'{nearest}' is a file" if nearest.is_file() else f"'{nearest}' is no folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return _no_permission(nearest)
    return f"{error.strerror or error} ('{nearest}')"


def _no_permission(path: Path) -> str:
    """What may not be written, by whom, and whose it is."""
    mode = stat.filemode(path.stat().st_mode)
    return f"user {os.geteuid()} has no permission to write '{path}' ({mode}, owner {path.stat().st_uid})"


def actor() -> str:
    """Who acts, for the audit log: ATTUNE_ACTOR or the login name."""
    try:
        return os.environ.get("ATTUNE_ACTOR") or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
