"""What every contract stands on: the plug with its keys, the row, and the answer."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from attune.core.keys import Keys

Row = dict[str, Any]
"""One accepted row: `row_id` (str), `place` (file:line), one entry per role of the task, optional `group`, `time`, `split`."""
Signature = dict[str, Any]
"""JSON facts about the rows that a task needs to build and answer: label names, multi-label or not, chat template ..."""
Example = dict[str, Any]
"""One encoded row: `size` (int, tokens or other cost), `ids` (its token ids, or several lists of them by name) where it is text, and
whatever the objective's `collate` needs."""
Batch = dict[str, Any]


class NoKeys(Keys):
    """A plug with nothing to set."""


class Plug(ABC):
    """Base of every plug: its name (the file's name), its kind (the folder's name) and its validated keys."""

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    keys_type: ClassVar[type[Keys]] = NoKeys
    requires: ClassVar[frozenset[str]] = frozenset()
    """Traits the task must have."""

    _folder: Path = Path()

    def __init__(self, keys: Keys | None = None) -> None:
        self.keys: Any = keys if keys is not None else self.keys_type()

    @property
    def folder(self) -> Path:
        """Where relative paths in its keys, and in those of its parts, begin: the recipe's folder."""
        return self._folder

    @folder.setter
    def folder(self, folder: Path) -> None:
        self._folder = folder
        for part in self.parts():
            part.folder = folder

    def parts(self) -> Sequence[Plug]:
        """Plugs that it is made with, such as an objective's rewards."""
        return ()

    def reads(self) -> Sequence[Path]:
        """Files and folders of the user's that its result depends on beside its keys: re-running looks whether they changed (`core.contents`)."""
        return ()

    def models(self) -> Mapping[str, tuple[str, str | None]]:
        """Models beside the recipe's base that its result depends on: the key that names each -> reference and revision, as `core.models.resolve_base` takes them."""
        return {}

    def located(self, path: str) -> Path:
        """A path of its keys, relative ones from the recipe's folder."""
        return self.folder / Path(path).expanduser()


@dataclass(frozen=True)
class Prediction:
    """One answer. `output` is a label, a list of labels, a text, a vector or a ranked list, as the task says; None: nothing was answered, something else was told (`extra`)."""

    output: Any
    scores: dict[str, float] = field(default_factory=dict)
    """Probability per label, where the task has labels."""
    confidence: float | None = None
    """In [0, 1], where the task has one."""
    extra: dict[str, Any] = field(default_factory=dict)
